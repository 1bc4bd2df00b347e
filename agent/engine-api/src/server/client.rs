//! A client's connection, and how much of what it was sent it has not read yet.

use std::os::fd::AsRawFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A client's connection.
pub(crate) trait Client: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {
    /// Zero once the client has read all that was sent; always zero where only the client's kernel knows.
    fn unread_bytes(&self) -> usize {
        0
    }
}

impl Client for TcpStream {}

impl Client for TlsStream<TcpStream> {}

impl Client for UnixStream {
    fn unread_bytes(&self) -> usize {
        let mut bytes: nix::libc::c_int = 0;
        // SAFETY: the descriptor is that of the open socket `self`, and TIOCOUTQ writes one int to where the pointer
        // leads, a local that outlives the call.
        let result = unsafe { nix::libc::ioctl(self.as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut bytes) };
        match result {
            0 => usize::try_from(bytes).unwrap_or_default(),
            // A kernel that does not say is one that is not waited for.
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_unix_socket_knows_what_its_client_has_read() {
        let (mut server, mut client) = UnixStream::pair().unwrap();
        assert_eq!(server.unread_bytes(), 0);
        server.write_all(b"head").await.unwrap();
        assert!(server.unread_bytes() > 0);
        client.read_exact(&mut [0; 4]).await.unwrap();
        assert_eq!(server.unread_bytes(), 0);
    }
}
