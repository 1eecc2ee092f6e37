//! Where a check is described: in its registration. A node may have thousands, so that nobody keeps a copy.

use std::{ops::Deref, sync::Arc};

use super::{CheckSpec, Registration};

/// One check of a registration.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    registration: Arc<Registration>,
    nth: usize,
}

impl Recipe {
    /// Those of all checks of a registration.
    pub(crate) fn all(registration: &Arc<Registration>) -> impl Iterator<Item = Self> {
        (0..registration.checks.len()).map(|nth| Self { registration: Arc::clone(registration), nth })
    }
}

impl Deref for Recipe {
    type Target = CheckSpec;

    fn deref(&self) -> &CheckSpec {
        &self.registration.checks[self.nth]
    }
}
