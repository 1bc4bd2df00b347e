//! The uploads under way: few at once, and none that nobody goes on with.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Most uploads at once: a push has five, and dozens of clients may push.
pub(crate) const UPLOADS_MAX: usize = 256;
/// How long an upload waits for its client.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(15 * 60);

/// Uploads by their ids. What an upload is, the caller knows; the time is told.
#[derive(Debug)]
pub(crate) struct Uploads<T> {
    uploads: HashMap<String, Entry<T>>,
    uploads_max: usize,
}

#[derive(Debug)]
struct Entry<T> {
    repository: String,
    upload: T,
    touched: Instant,
}

/// There are too many.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl<T: Clone> Uploads<T> {
    pub fn new(uploads_max: usize) -> Self {
        Uploads {
            uploads: HashMap::new(),
            uploads_max,
        }
    }

    /// Adds an upload into a repository.
    pub fn add(&mut self, id: String, repository: &str, upload: T, now: Instant) -> Result<(), Full> {
        if self.uploads.len() >= self.uploads_max {
            return Err(Full);
        }
        let entry = Entry {
            repository: repository.to_owned(),
            upload,
            touched: now,
        };
        self.uploads.insert(id, entry);
        Ok(())
    }

    /// The upload of this id, if it goes into this repository; it begins to wait anew.
    pub fn find(&mut self, id: &str, repository: &str, now: Instant) -> Option<T> {
        let entry = self.uploads.get_mut(id)?;
        if entry.repository != repository {
            return None;
        }
        entry.touched = now;
        Some(entry.upload.clone())
    }

    /// Forgets an upload.
    pub fn remove(&mut self, id: &str) -> bool {
        self.uploads.remove(id).is_some()
    }

    /// Forgets what nobody went on with; what is being worked on stays, and begins to wait anew.
    pub fn expire(&mut self, now: Instant, is_busy: impl Fn(&T) -> bool) -> usize {
        let before = self.uploads.len();
        self.uploads.retain(|_, entry| {
            if is_busy(&entry.upload) {
                entry.touched = now;
            }
            now.saturating_duration_since(entry.touched) <= IDLE_MAX
        });
        before - self.uploads.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_few_and_belong_to_a_repository() {
        let now = Instant::now();
        let mut uploads = Uploads::new(2);
        uploads.add("1".to_owned(), "a", 1, now).unwrap();
        uploads.add("2".to_owned(), "b", 2, now).unwrap();
        assert_eq!(uploads.add("3".to_owned(), "a", 3, now), Err(Full));
        assert_eq!(uploads.find("1", "a", now), Some(1));
        assert_eq!(uploads.find("1", "b", now), None);
        assert!(uploads.remove("1") && !uploads.remove("1"));
        uploads.add("3".to_owned(), "a", 3, now).unwrap();
    }

    #[test]
    fn an_upload_without_its_client_goes_unless_it_is_worked_on() {
        let begin = Instant::now();
        let mut uploads = Uploads::new(3);
        for (id, upload) in [("idle", 1), ("busy", 2), ("found", 3)] {
            uploads.add(id.to_owned(), "a", upload, begin).unwrap();
        }
        let late = begin + IDLE_MAX;
        uploads.find("found", "a", late).unwrap();
        assert_eq!(uploads.expire(late, |_| false), 0);
        let later = late + Duration::from_secs(1);
        assert_eq!(uploads.expire(later, |upload| *upload == 2), 1);
        // A long piece has come to its end: the client has time for the next one.
        assert_eq!(uploads.expire(later, |_| false), 0);
        assert_eq!(uploads.find("idle", "a", later), None);
        assert!(uploads.find("busy", "a", later).is_some() && uploads.find("found", "a", later).is_some());
    }
}
