//! What a merge did to a book, for those who show it, index it and charge for it.

use crate::model::{InstanceId, ServiceName};

/// What a merge did.
#[derive(Debug, Default)]
pub(in crate::mesh) struct Merged {
    /// The services whose instances may be shown otherwise now.
    pub(in crate::mesh) services: Vec<ServiceName>,
    /// The owner's word on itself changed.
    pub(in crate::mesh) node: bool,
    /// How many rows were new.
    pub(in crate::mesh) rows: u64,
    /// How many rows were malformed or over a limit.
    pub(in crate::mesh) bad_rows: u64,
    /// How many of these were over a limit.
    pub(in crate::mesh) beyond: u64,
    /// Instances that came to be or went: what an index needs.
    pub(in crate::mesh) index: Vec<Indexed>,
}

impl Merged {
    /// So many rows are over a limit, and not kept.
    pub(super) fn exceed(&mut self, rows: usize) {
        self.bad_rows += rows as u64;
        self.beyond += rows as u64;
    }
}

/// An instance came under a service's name, or went from it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::mesh) enum Indexed {
    In(ServiceName, InstanceId),
    Out(ServiceName, InstanceId),
}
