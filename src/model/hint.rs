//! What to say of a key that nobody knows.

/// serde's message on one line, with "did you mean" when it is about an unknown key. It quotes that key first, then those
/// it knows.
#[must_use]
pub fn with_hint(message: &str) -> String {
    if message.starts_with("invalid socket address") {
        return "is no IP address with a port, such as 127.0.0.1:8500 or [::]:7946".into();
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field").then(|| quoted.next()).flatten();
    let known: Vec<_> = quoted.collect();
    match unknown.map(|key| (key, closest(key, known.iter().copied()))) {
        Some((key, Some(near))) => format!("unknown key `{key}`; did you mean `{near}`?"),
        Some((key, None)) if known.len() > FEW => {
            let count = known.len();
            format!("unknown key `{key}`, and none of the {count} that fit here is like it: the README lists them")
        }
        _ => message.replace("unknown field", "unknown key").trim().replace('\n', " "),
    }
}

/// The word among `known` that `word` was most likely meant to be.
fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(&word.to_ascii_lowercase(), candidate);
    known.into_iter().min_by_key(|known| distance(known)).filter(|known| distance(known) <= word.len().max(3) / 2)
}

/// So many keys are listed where none of them is likely.
const FEW: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_likened_to_a_known_one() {
        let said = with_hint("unknown field `intervall`, expected one of `http`, `interval` at line 1 column 20");
        assert_eq!(said, "unknown key `intervall`; did you mean `interval`?");
        assert_eq!(with_hint("unknown field `x`, expected `http`"), "unknown key `x`, expected `http`");
        let many = "`interval`, ".repeat(34);
        let said = with_hint(&format!("unknown field `zz`, expected one of {many}"));
        assert_eq!(said, "unknown key `zz`, and none of the 34 that fit here is like it: the README lists them");
    }
}
