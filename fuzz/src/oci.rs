//! What a registry says: documents, names, challenges.

/// The first byte chooses the reader of the rest.
pub fn oci(data: &[u8]) {
    if let Some((which, bytes)) = data.split_first() {
        images::fuzzing::document(*which, bytes);
    }
}
