//! The one name in a certificate: `NODE.MESH.hobnob`.

use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use crate::model::{MeshName, NodeName};

/// The name that a verified certificate proves, if it belongs to `mesh`.
pub(in crate::agent) fn proven_name(certificate: &CertificateDer<'_>, mesh: &MeshName) -> Option<NodeName> {
    let san = only_san(certificate)?;
    let (node, rest) = san.split_once('.')?;
    let of = rest.strip_suffix(SUFFIX)?;
    if of.eq_ignore_ascii_case(mesh.as_str()) { NodeName::try_from(node).ok() } else { None }
}

/// The certificate's DNS name, if it has exactly one name and that is a DNS name.
pub(super) fn only_san(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [GeneralName::DNSName(name)] => Some((*name).to_owned()),
        _ => None,
    }
}

pub(super) fn san(mesh: &MeshName, node: &NodeName) -> String {
    format!("{node}.{mesh}{SUFFIX}").to_ascii_lowercase()
}

pub(super) const SUFFIX: &str = ".hobnob";
