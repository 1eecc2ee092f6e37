//! What fuzzers call of the room of Eureka's words.

use super::{instance, write, xml};
use crate::http::consul;

/// See [`crate::http::fuzz::body`].
pub(in crate::http) fn body(bytes: &[u8]) {
    for is_xml in [true, false] {
        let Ok(document) = write::parse(bytes, Some(is_xml)) else { continue };
        if is_xml {
            assert!(xml::parse(&xml::write(&document)).is_ok(), "S13: what was written is read: {document}");
        }
        if let Ok(registration) = instance::read("web", &document, None) {
            consul::fuzz::holds(&registration);
        }
    }
}
