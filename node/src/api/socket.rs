//! The Unix socket: where it is, and how it comes to be there with the right mode.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Name of the socket in the data directory.
pub const SOCKET_NAME: &str = "api.sock";
/// The socket before it has its mode.
const UNREADY_NAME: &str = "api.sock.new";
/// Only the owner may connect.
const MODE: u32 = 0o600;
/// `sockaddr_un` has room for 108 bytes on Linux and 104 elsewhere, the final zero included.
const PATH_BYTES_MAX: usize = 103;

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("{step} the socket `{path}`")]
pub struct SocketError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Listens in a data directory that this process has for itself. A socket left by a process that died is replaced.
pub(super) fn listen(data: &Path) -> Result<UnixListener, SocketError> {
    let (ready, unready) = (data.join(SOCKET_NAME), data.join(UNREADY_NAME));
    let failed = |step| {
        let path = ready.clone();
        move |source| SocketError { step, path, source }
    };
    match fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(error)),
        _ => {}
    }
    let dir = Dir::open(data).map_err(failed("open the directory of"))?;
    let listener = UnixListener::bind(dir.path(UNREADY_NAME)).map_err(failed("create"))?;
    // It gets its name only with its mode, so that nobody else can connect in between.
    fs::set_permissions(&unready, Permissions::from_mode(MODE)).map_err(failed("protect"))?;
    fs::rename(&unready, &ready).map_err(failed("name"))?;
    Ok(listener)
}

/// Connects to the node of a data directory.
pub(super) async fn connect(data: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(Dir::open(data)?.path(SOCKET_NAME)).await
}

/// A data directory whose sockets can be named in few bytes.
struct Dir<'a> {
    data: &'a Path,
    /// Open when the path is too long for a socket's address: then it is named by its descriptor.
    open: Option<File>,
}

impl<'a> Dir<'a> {
    fn open(data: &'a Path) -> io::Result<Self> {
        let longest = data.join(UNREADY_NAME).as_os_str().len();
        let open = if longest > PATH_BYTES_MAX { Some(File::open(data)?) } else { None };
        Ok(Self { data, open })
    }

    fn path(&self, name: &str) -> PathBuf {
        match &self.open {
            Some(dir) => PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())),
            None => self.data.join(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_owner_may_connect() {
        let data = tempfile::tempdir().unwrap();
        let _listener = listen(data.path()).unwrap();
        let mode = fs::metadata(data.path().join(SOCKET_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        connect(data.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced() {
        let data = tempfile::tempdir().unwrap();
        drop(listen(data.path()).unwrap());
        assert!(connect(data.path()).await.is_err());
        let _listener = listen(data.path()).unwrap();
        connect(data.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_long_path_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("d".repeat(120));
        fs::create_dir(&data).unwrap();
        let _listener = listen(&data).unwrap();
        connect(&data).await.unwrap();
    }
}
