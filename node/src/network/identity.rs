//! Who this node is: an ed25519 key in one file of the data directory.
//!
//! Always true: the key of an existing file is never replaced; a new file is whole and synced before it has its name,
//! and only its owner may read it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use swarm_protocol::NodeId;
use swarm_store::CrashPoint;

/// The file in the data directory.
const FILE_NAME: &str = "identity.key";
/// The file begins with the secret key.
const SECRET_BYTES: usize = 32;
/// The secret key and the public one, which shows whether the secret one is still what it was. The first version stored
/// the secret one alone, and such a file is still read.
const FILE_BYTES: usize = SECRET_BYTES + 32;

/// A node's secret key, and what follows from it. Its `Debug` shows the public part alone.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is there and cannot be read.
    #[error("read the identity `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error(
        "the identity `{path}` is damaged: it must be a secret key and the public key that belongs to it, \
         {FILE_BYTES} bytes; restore it, or move it away to become a new node"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A new one cannot be stored.
    #[error("write the identity `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operating system gives no random bytes.
    #[error("read random bytes for a new identity")]
    Random(#[source] io::Error),
}

impl Identity {
    /// The identity of this 32-byte secret.
    pub fn from_secret(secret: [u8; SECRET_BYTES]) -> Self {
        Self { key: SigningKey::from_bytes(&secret) }
    }

    /// A new identity, from the operating system's randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let mut secret = [0; SECRET_BYTES];
        let random = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut secret));
        random.map_err(IdentityError::Random)?;
        Ok(Self::from_secret(secret))
    }

    /// The identity stored in `data/identity.key`; a new one is made and stored when there is no such file. `data` must
    /// exist. Blocks on the disk.
    pub fn load_or_create(data: &Path) -> Result<Self, IdentityError> {
        let path = data.join(FILE_NAME);
        match fs::read(&path) {
            Ok(bytes) => Self::from_file(&bytes, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(data, path),
            Err(source) => Err(IdentityError::Read { path, source }),
        }
    }

    /// The public key: the node's name.
    pub fn node(&self) -> NodeId {
        NodeId::from_bytes(self.key.verifying_key().to_bytes())
    }

    /// The key that signs jobs.
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// The same key for libp2p.
    pub(super) fn keypair(&self) -> libp2p::identity::Keypair {
        libp2p::identity::Keypair::ed25519_from_bytes(self.key.to_bytes()).expect("any 32 bytes are an ed25519 secret")
    }

    fn from_file(bytes: &[u8], path: PathBuf) -> Result<Self, IdentityError> {
        let identity = bytes.first_chunk().map(|secret| Self::from_secret(*secret));
        let is_whole = |identity: &Self| bytes.len() == SECRET_BYTES || bytes == identity.to_file();
        identity.filter(is_whole).ok_or(IdentityError::Damaged { path })
    }

    fn create(data: &Path, path: PathBuf) -> Result<Self, IdentityError> {
        let identity = Self::generate()?;
        identity.write(data, &path).map_err(|source| IdentityError::Write { path, source })?;
        Ok(identity)
    }

    fn write(&self, data: &Path, path: &Path) -> io::Result<()> {
        let partial = path.with_extension("partial");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(&self.to_file())?;
        file.sync_all()?;
        CrashPoint::IdentityUnnamed.pass();
        fs::rename(&partial, path)?;
        CrashPoint::IdentityNamed.pass();
        File::open(data)?.sync_all()?;
        CrashPoint::IdentityDurable.pass();
        Ok(())
    }

    fn to_file(&self) -> [u8; FILE_BYTES] {
        self.key.to_keypair_bytes()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.node()).finish()
    }
}
