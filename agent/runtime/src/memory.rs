//! What a small process that lives long keeps in memory while nothing happens.
//!
//! Launcher and monitors run a large program of which they need little. What the kernel can read again from a file is
//! given up at rest, and comes back page by page as it is used.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::ffi::c_void;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// A process is at rest after this: well beyond the gaps between the steps of a start.
const REST_AFTER: Duration = Duration::from_secs(1);

/// Read-only parts of a program: headers and constants, and code.
const PARTS_MAX: usize = 8;

const PAGE_BYTES: usize = 4096;

unsafe extern "C" {
    // Defined by every linker for this platform: where the program begins in memory.
    static __executable_start: u8;
}

/// Gives unused heap back to the kernel.
fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: always allowed.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Waits until there is something to read; what is not needed for waiting leaves memory meanwhile.
pub(crate) fn wait_readable(descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    loop {
        match wait(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)]) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Waits for an event; what is not needed for waiting leaves memory meanwhile.
pub(crate) fn wait(polled: &mut [PollFd<'_>]) -> Result<(), Errno> {
    let rest_after = Timespec {
        tv_sec: REST_AFTER.as_secs() as _,
        tv_nsec: 0,
    };
    if poll(polled, Some(&rest_after))? == 0 {
        trim_heap();
        release_image();
        poll(polled, None)?;
    }
    Ok(())
}

/// Takes this program's code and constants out of this process's memory.
fn release_image() {
    let (parts, count) = read_only_parts();
    for part in &parts[..count] {
        // SAFETY: a private mapping of a file to which this process never wrote, so that every page reads the same again.
        unsafe { libc::madvise(part.start as *mut c_void, part.len(), libc::MADV_DONTNEED) };
    }
}

/// The ranges of memory that come from a file unchanged, and how many they are.
fn read_only_parts() -> ([Range<usize>; PARTS_MAX], usize) {
    let mut parts = [const { 0..0 }; PARTS_MAX];
    let mut count = 0;
    let loaded = program_headers()
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0)
        .filter_map(whole_pages);
    for (part, slot) in loaded.zip(&mut parts) {
        *slot = part;
        count += 1;
    }
    (parts, count)
}

/// The pages that lie in a part entirely.
fn whole_pages(header: &libc::Elf64_Phdr) -> Option<Range<usize>> {
    let start = (&raw const __executable_start).addr() + header.p_vaddr as usize - first_address();
    let end = start + header.p_memsz as usize;
    let (start, end) = (start.next_multiple_of(PAGE_BYTES), end / PAGE_BYTES * PAGE_BYTES);
    (start < end).then_some(start..end)
}

/// The lowest address of the program as it was linked.
fn first_address() -> usize {
    let loaded = program_headers()
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD);
    let lowest = loaded.map(|header| header.p_vaddr as usize).min().unwrap_or(0);
    lowest / PAGE_BYTES * PAGE_BYTES
}

/// The program's own headers, as the kernel tells every process.
fn program_headers() -> &'static [libc::Elf64_Phdr] {
    // SAFETY: takes numbers only.
    let (address, count) = unsafe { (libc::getauxval(libc::AT_PHDR), libc::getauxval(libc::AT_PHNUM)) };
    if address == 0 {
        return &[];
    }
    // SAFETY: the kernel points at the headers, which lie in the program's first, read-only part for as long as it runs.
    unsafe { std::slice::from_raw_parts(address as *const libc::Elf64_Phdr, count as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    static WORDS: [&str; 1024] = ["word"; 1024];

    #[test]
    fn a_process_works_on_after_it_gave_its_image_up() {
        assert!(read_only_parts().1 >= 2, "constants and code");
        // SAFETY: the child has one thread, so it may allocate, and ends without running this test's other code.
        match unsafe { nix::unistd::fork() }.expect("a process can be forked") {
            nix::unistd::ForkResult::Child => {
                release_image();
                let works = std::hint::black_box(&WORDS).iter().all(|word| *word == "word");
                crate::sys::exit_now(if works { 0 } else { 1 });
            }
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).expect("it is our child");
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
    }
}
