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
    let (word, sorted) = (word.to_ascii_lowercase(), sorted(word));
    let distance = |candidate: &str| {
        let as_it_is = strsim::damerau_levenshtein(&word, candidate);
        as_it_is.min(strsim::damerau_levenshtein(&sorted, &self::sorted(candidate)))
    };
    known.into_iter().min_by_key(|known| distance(known)).filter(|known| distance(known) <= word.len().max(3) / 2)
}

/// A key's words in one order: who says `weight_warning` means `warning_weight`.
fn sorted(key: &str) -> String {
    let mut words: Vec<_> = key.split('_').map(str::to_ascii_lowercase).collect();
    words.sort_unstable();
    words.join("_")
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
        let said = with_hint("unknown field `weight_warning`, expected one of `weight`, `warning_weight`");
        assert_eq!(said, "unknown key `weight_warning`; did you mean `warning_weight`?");
        assert_eq!(with_hint("unknown field `x`, expected `http`"), "unknown key `x`, expected `http`");
        let many = "`interval`, ".repeat(34);
        let said = with_hint(&format!("unknown field `zz`, expected one of {many}"));
        assert_eq!(said, "unknown key `zz`, and none of the 34 that fit here is like it: the README lists them");
    }
}
