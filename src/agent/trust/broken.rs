//! What can be wrong with what a node proves itself with, and with whom it lets in.

use std::path::PathBuf;

use rustls::Error;

use crate::{agent::keep, model::NodeName};

/// Why there is nothing to prove oneself with. Never the doing of a peer.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// There is nothing to derive from.
    #[error("no secret was given")]
    NoSecret,
    /// The cryptographic library refused a key.
    #[error("the key cannot be made")]
    Key,
    /// A certificate could not be made.
    #[error("the certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Nobody of that key is awaited.
    #[error("the token was used, has expired, or is of another node")]
    Uninvited,
    /// Too many invitations wait.
    #[error("too many machines are invited and have not come: wait until some of their tokens expire")]
    Crowd,
    /// The invitation is for another name.
    #[error("the token is for a machine called {0}: join with --node {0}")]
    Called(NodeName),
    /// Another node has the name.
    #[error("another node is called {0}: join with another --node; to take its place, make a token for that name")]
    Taken(NodeName),
    /// The name is let in no more.
    #[error("{0} is revoked in this mesh: choose another --node, or `hobnob ca revoke {0} --undo`")]
    Denied(NodeName),
    /// A certificate that is granted brings nothing.
    #[error("it ends no later than the one in use, as the authority does: that is to be changed for a new one")]
    NoLater,
    /// A member asks for another's certificate.
    #[error("a member has its own certificate renewed, with its own key, and this is {0}")]
    NotYours(NodeName),
    /// A member asks for its next certificate before that is due.
    #[error(
        "a certificate is renewed in the last third of its time, and this one is good until {0}: is that machine's clock \
         right? `hobnob ca issue` makes one at any time"
    )]
    Early(String),
    /// The disk does not take it.
    #[error("{} cannot be written: {_1}; nothing was changed: {}", .0.display(), keep::mend(&_1.to_string()))]
    Unkept(PathBuf, std::io::Error),
    /// This node has no authority's key to sign with.
    #[error("this node does not hold the authority's key: do it where tls.ca_key is set, or where it is kept")]
    NoAuthority,
    /// The files of an authority are being changed, or were changed wrongly.
    #[error("nothing is signed while the files of [tls] are not those in use: {0}; mend them, then the same again")]
    NotReloaded(String),
    /// What it would sign, nobody would believe.
    #[error("the authority has expired, at {0}: change it for a new one, as the walk-through of rotation says")]
    Expired(String),
    /// TLS refused the result.
    #[error("TLS refuses the certificate: {0}")]
    Tls(#[from] Error),
    /// The verifier refused the authorities.
    #[error("the verifier refuses the authority: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// A setting's file is not what it should be.
    #[error("{0} is not in PEM, or not what it should be")]
    Pem(&'static str),
    /// The authority's key signs nothing that a node verifies.
    #[error(
        "no node believes what this authority's key signs: make one of Ed25519, of P-256 to P-521, or of 2048 bits of RSA"
    )]
    Weak,
    /// Two files that do not belong together.
    #[error("{0} is not the key of {1}: were they issued together?")]
    Apart(&'static str, &'static str),
    /// A file cannot be read.
    #[error("{} cannot be read: {_1}", .0.display())]
    Unread(PathBuf, std::io::Error),
    /// A file holds something else.
    #[error("{} {_1}", .0.display())]
    File(PathBuf, &'static str),
    /// Others can read a key.
    #[error("{} can be read by others (mode {_1:o}); a key is for its owner alone: chmod 600", .0.display())]
    Readable(PathBuf, u32),
    /// The certificate is another node's.
    #[error(
        "the certificate names {says}, and this node is {wanted}: issue one for it: hobnob ca issue NODE --mesh MESH"
    )]
    Name {
        /// Whom it names.
        says: String,
        /// Whom it should.
        wanted: String,
    },
}
