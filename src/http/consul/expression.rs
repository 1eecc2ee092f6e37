//! Reads a filter's expression. Mistakes say where: `line:column (offset): what is wrong`.
//!
//! No library for this language is kept; its grammar is small:
//!
//! ```text
//! any   = all { "or" all }            all = not { "and" not }
//! not   = "not" not | "(" any ")" | test
//! test  = value ["not"] "in" field | field ["not"] ("contains" | "matches") value
//!       | field ("==" | "!=") value | field "is" ["not"] "empty"
//! field = word { "[" text "]" [ word ] }   value = word | text
//! ```

use std::fmt;

use regex::RegexBuilder;

use super::{
    fields::{self, Fields, Kind},
    filter::{Expr, Sense, Test},
};

/// What is wrong with an expression, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    line: usize,
    column: usize,
    offset: usize,
    why: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{} ({}): {}", self.line, self.column, self.offset, self.why)
    }
}

/// Reads an expression over these fields.
pub(super) fn parse(text: &str, fields: Fields) -> Result<Expr, Wrong> {
    let mut reader = Reader { text, at: 0, depth: 0, fields };
    if text.len() > MAX_LENGTH {
        return Err(reader.wrong(0, format!("is longer than {MAX_LENGTH} bytes")));
    }
    let expression = reader.any()?;
    match reader.next()? {
        None => Ok(expression),
        Some((at, token)) => Err(reader.wrong(at, format!("expected \"and\", \"or\" or the end, found {token}"))),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    fields: Fields,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(&'static str),
}

impl fmt::Display for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(out, "{word:?}"),
            Self::Text(text) => write!(out, "the text {text:?}"),
            Self::Sign(sign) => write!(out, "{sign:?}"),
        }
    }
}

impl Token {
    fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(found) if found.eq_ignore_ascii_case(word))
    }
}

/// An operator that is followed or preceded by a value.
#[derive(Clone, Copy)]
enum Operator {
    Equals,
    Has,
    Matches,
}

type Read<T> = Result<T, Wrong>;

impl Reader<'_> {
    fn any(&mut self) -> Read<Expr> {
        let mut parts = vec![self.all()?];
        while self.take("or")? {
            parts.push(self.all()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::Any(parts) })
    }

    fn all(&mut self) -> Read<Expr> {
        let mut parts = vec![self.not()?];
        while self.take("and")? {
            parts.push(self.not()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::All(parts) })
    }

    fn not(&mut self) -> Read<Expr> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong(self.at, format!("is nested deeper than {MAX_DEPTH}")));
        }
        let expression = if self.take("not")? {
            Expr::Not(Box::new(self.not()?))
        } else if self.take_sign("(")? {
            let inner = self.any()?;
            if !self.take_sign(")")? {
                return Err(self.expected("\")\""));
            }
            inner
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn test(&mut self) -> Read<Expr> {
        let begin = self.at;
        let Some((at, first)) = self.next()? else {
            return Err(self.wrong(begin, "expected a field or a value".into()));
        };
        if let Token::Sign(_) = first {
            return Err(self.wrong(at, format!("expected a field or a value, found {first}")));
        }
        let path = self.path(&first)?;
        let (operator_at, sense, operator) = self.operator()?;
        match (operator, first) {
            (Place::Before, Token::Word(value) | Token::Text(value)) => {
                let Some((field_at, Token::Word(word))) = self.next()? else { return Err(self.expected("a field")) };
                let path = self.path(&Token::Word(word))?;
                self.build(field_at, path, sense, Operator::Has, (at, value))
            }
            (Place::Nowhere, Token::Word(_)) => self.build_empty(at, path, sense),
            (Place::After(operator), Token::Word(_)) => match self.next()? {
                Some((value_at, Token::Word(value) | Token::Text(value))) => {
                    self.build(at, path, sense, operator, (value_at, value))
                }
                _ => Err(self.wrong(operator_at, "is not followed by a value".into())),
            },
            (_, first) => {
                Err(self.wrong(operator_at, format!("{first} is no field: behind it stands \"in\" or \"not in\"")))
            }
        }
    }

    fn operator(&mut self) -> Read<(usize, Sense, Place)> {
        let begin = self.at;
        let Some((at, token)) = self.next()? else { return Err(self.wrong(begin, OPERATORS.into())) };
        let place = |token: &Token| {
            let words = [
                ("in", Place::Before),
                ("contains", Place::After(Operator::Has)),
                ("matches", Place::After(Operator::Matches)),
            ];
            words.into_iter().find(|(word, _)| token.is(word)).map(|(_, place)| place)
        };
        match &token {
            Token::Sign("==") => Ok((at, Sense::Is, Place::After(Operator::Equals))),
            Token::Sign("!=") => Ok((at, Sense::IsNot, Place::After(Operator::Equals))),
            token if token.is("is") => {
                let sense = if self.take("not")? { Sense::IsNot } else { Sense::Is };
                if self.take("empty")? { Ok((at, sense, Place::Nowhere)) } else { Err(self.expected("\"empty\"")) }
            }
            token if token.is("not") => {
                let after = self.next()?.and_then(|(_, token)| place(&token));
                after.map(|place| (at, Sense::IsNot, place)).ok_or_else(|| self.wrong(at, OPERATORS.into()))
            }
            token => place(token).map(|place| (at, Sense::Is, place)).ok_or_else(|| self.wrong(at, OPERATORS.into())),
        }
    }

    /// The parts of a field's name; brackets may follow a word, and more words them.
    fn path(&mut self, first: &Token) -> Read<Vec<String>> {
        let Token::Word(word) = first else { return Ok(Vec::new()) };
        let mut path: Vec<String> = word.split('.').map(String::from).collect();
        while self.take_sign("[")? {
            match self.next()? {
                Some((_, Token::Text(key) | Token::Word(key))) => path.push(key),
                _ => return Err(self.expected("a key")),
            }
            if !self.take_sign("]")? {
                return Err(self.expected("\"]\""));
            }
            if self.text[self.at..].starts_with('.')
                && let Some((_, Token::Word(more))) = self.next()?
            {
                path.extend(more[1..].split('.').map(String::from));
            }
        }
        Ok(path)
    }

    fn kind(&self, at: usize, path: &[String]) -> Read<Kind> {
        fields::kind(self.fields, path)
            .ok_or_else(|| self.wrong(at, format!("{:?} is not a field that can be filtered here", path.join("."))))
    }

    fn build_empty(&self, at: usize, path: Vec<String>, sense: Sense) -> Read<Expr> {
        match self.kind(at, &path)? {
            Kind::Number | Kind::Flag => Err(self.wrong(at, format!("{:?} is never empty", path.join(".")))),
            kind => Ok(Expr::Test(path, kind, sense, Test::Empty)),
        }
    }

    /// A test of the field at `at` by a value and where that stands.
    fn build(
        &self,
        at: usize,
        path: Vec<String>,
        sense: Sense,
        operator: Operator,
        (value_at, value): (usize, String),
    ) -> Read<Expr> {
        let kind = self.kind(at, &path)?;
        let no = |what: &str| Err(self.wrong(at, format!("{:?} {what}", path.join("."))));
        let test = match (operator, kind) {
            (Operator::Equals, Kind::Text | Kind::Entry) => Test::Is(value),
            (Operator::Equals, Kind::Number) => match value.parse() {
                Ok(number) => Test::Number(number),
                Err(_) => return no(&format!("is a number, and {value:?} is none")),
            },
            (Operator::Equals, Kind::Flag) => match &*value.to_ascii_lowercase() {
                "true" | "1" | "t" => Test::Flag(true),
                "false" | "0" | "f" => Test::Flag(false),
                _ => return no(&format!("is true or false, not {value:?}")),
            },
            (Operator::Has, Kind::Text | Kind::Entry | Kind::Texts | Kind::Map | Kind::Addresses) => Test::Has(value),
            (Operator::Matches, Kind::Text | Kind::Entry) => {
                match RegexBuilder::new(&value).size_limit(MAX_PATTERN).build() {
                    Ok(pattern) => Test::Matches(pattern),
                    Err(why) => return Err(self.wrong(value_at, format!("is no regular expression: {}", reason(&why)))),
                }
            }
            _ => return no("cannot be compared so"),
        };
        Ok(Expr::Test(path, kind, sense, test))
    }

    /// Takes the next token if it is this word.
    fn take(&mut self, word: &str) -> Read<bool> {
        self.take_if(|token| token.is(word))
    }

    fn take_sign(&mut self, sign: &str) -> Read<bool> {
        self.take_if(|token| matches!(token, Token::Sign(found) if *found == sign))
    }

    fn take_if(&mut self, wanted: impl Fn(&Token) -> bool) -> Read<bool> {
        let before = self.at;
        let found = self.next()?.is_some_and(|(_, token)| wanted(&token));
        if !found {
            self.at = before;
        }
        Ok(found)
    }

    /// The next token and where it begins.
    fn next(&mut self) -> Read<Option<(usize, Token)>> {
        let rest = &self.text[self.at..];
        let begin = self.at + rest.len() - rest.trim_start().len();
        let rest = &self.text[begin..];
        let Some(first) = rest.chars().next() else {
            self.at = begin;
            return Ok(None);
        };
        if let Some(sign) = ["==", "!=", "(", ")", "[", "]"].into_iter().find(|sign| rest.starts_with(sign)) {
            self.at = begin + sign.len();
            return Ok(Some((begin, Token::Sign(sign))));
        }
        if first == '"' || first == '`' {
            let (text, length) = quoted(rest, first).map_err(|(at, why)| self.wrong(begin + at, why.into()))?;
            self.at = begin + length;
            return Ok(Some((begin, Token::Text(text))));
        }
        let is_word =
            |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ':' | '@' | '*' | '+' | '%' | '#');
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.wrong(begin, format!("{first:?} has no meaning here")));
        }
        self.at = begin + length;
        Ok(Some((begin, Token::Word(rest[..length].to_owned()))))
    }

    fn expected(&self, what: &str) -> Wrong {
        self.wrong(self.at, format!("expected {what}"))
    }

    fn wrong(&self, offset: usize, why: String) -> Wrong {
        let before = &self.text[..offset.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Wrong { line, column, offset, why }
    }
}

/// Where the value of an operator stands.
#[derive(Clone, Copy)]
enum Place {
    Before,
    Nowhere,
    After(Operator),
}

/// What is wrong with a pattern: the last line; those above draw where.
fn reason(why: &regex::Error) -> String {
    let text = why.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// The text between quotes, and how many bytes it takes with them; or what is wrong, and where. It is written as Go's are.
fn quoted(rest: &str, quote: char) -> Result<(String, usize), (usize, &'static str)> {
    let mut end = 1;
    loop {
        match rest[end..].chars().next().ok_or((0, "a text has no end"))? {
            c if c == quote => break,
            '\\' if quote == '"' => end += 1 + rest[end + 1..].chars().next().map_or(0, char::len_utf8),
            c => end += c.len_utf8(),
        }
    }
    let inner = &rest[1..end];
    let text =
        if quote == '"' { unescaped(inner).map_err(|(at, why)| (at + 1, why))? } else { inner.replace('\r', "") };
    Ok((text, end + 1))
}

/// What stands between double quotes, with the escapes of Go resolved.
fn unescaped(inner: &str) -> Result<String, (usize, &'static str)> {
    let (mut bytes, mut at) = (Vec::with_capacity(inner.len()), 0);
    while let Some(first) = inner[at..].chars().next() {
        match first {
            '\\' => {
                let (meant, length) = escape(&inner[at + 1..])
                    .ok_or((at, r#"a backslash begins \a \b \f \n \r \t \v \\ \" \ooo \xhh \uhhhh or \Uhhhhhhhh"#))?;
                bytes.extend(meant);
                at += 1 + length;
            }
            '\n' => return Err((at, "a text in double quotes ends in its line: write \\n")),
            other => {
                bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                at += other.len_utf8();
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| (0, "is no UTF-8 once its escapes are resolved"))
}

/// What the letters after a backslash mean, and how many bytes they take.
fn escape(rest: &str) -> Option<(Vec<u8>, usize)> {
    let number = |from: usize, digits: usize, radix: u32| {
        let digits = rest.get(from..from + digits).filter(|text| text.chars().all(|digit| digit.is_digit(radix)))?;
        u32::from_str_radix(digits, radix).ok()
    };
    let byte = |number: u32| Some(vec![u8::try_from(number).ok()?]);
    let letter = |number: u32| Some(char::from_u32(number)?.to_string().into_bytes());
    Some(match rest.chars().next()? {
        'x' => (byte(number(1, 2, 16)?)?, 3),
        'u' => (letter(number(1, 4, 16)?)?, 5),
        'U' => (letter(number(1, 8, 16)?)?, 9),
        '0'..='7' => (byte(number(0, 3, 8)?)?, 3),
        c => (vec![ESCAPES.iter().find(|(escaped, _)| *escaped == c)?.1], 1),
    })
}

const ESCAPES: [(char, u8); 9] =
    [('a', 7), ('b', 8), ('f', 12), ('n', b'\n'), ('r', b'\r'), ('t', b'\t'), ('v', 11), ('\\', b'\\'), ('"', b'"')];
const OPERATORS: &str =
    r#"no match found, expected: "!=", "==", "contains", "in", "is", "matches" or "not", each with what it needs"#;
/// Far beyond what a person writes, and short to read.
pub(super) const MAX_LENGTH: usize = 4096;
/// Parentheses and "not" within each other: the reader calls itself for each.
const MAX_DEPTH: usize = 64;
/// What a pattern may take once compiled.
const MAX_PATTERN: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::consul::fields::INSTANCE;

    fn wrong(text: &str) -> String {
        parse(text, INSTANCE).unwrap_err().to_string()
    }

    #[test]
    fn a_mistake_says_where_it_is() {
        for (text, place) in [
            ("bad bad", "1:5 (4)"),
            ("", "1:1 (0)"),
            ("Colour == red", "1:1 (0): \"Colour\" is not a field"),
            ("ServicePort == http", "1:1 (0): \"ServicePort\" is a number"),
            ("ServiceTags == a", "1:1 (0)"),
            ("(ServicePort == 1", "1:18 (17): expected \")\""),
            ("ServicePort == 1 ServicePort == 2", "1:18 (17)"),
            ("ServiceID == \"x", "1:14 (13)"),
            ("ServiceID ==", "1:11 (10)"),
            ("ServiceID is full", "1:13 (12)"),
            ("ServicePort is empty", "1:1 (0)"),
            ("ServiceID\n  ~ x", "2:3 (12)"),
            ("ServiceID matches \"(\"", "1:19 (18): is no regular expression: unclosed group"),
            ("ServiceID not matches `[`", "1:23 (22): is no regular expression: unclosed character class"),
            ("\"web\" == ServiceName", "1:7 (6): the text \"web\" is no field: behind it stands \"in\""),
            ("`web` is empty", "1:7 (6): the text \"web\" is no field"),
            ("\"web\" not matches ServiceName", "1:7 (6): the text \"web\" is no field"),
            ("\"web\" ServiceName", "1:7 (6): no match found, expected"),
            ("\"web\" in", "1:9 (8): expected a field"),
        ] {
            let why = wrong(text);
            assert!(why.starts_with(place), "{text}: {why}");
        }
    }

    #[test]
    fn a_text_is_written_as_in_go() {
        for (text, meant) in [
            (r#""\u00e9\U0001F600\x41\101""#, "é😀AA"),
            (r#""\xc3\xa9""#, "é"),
            (r#""\a\b\f\n\r\t\v\\\"""#, "\u{7}\u{8}\u{c}\n\r\t\u{b}\\\""),
            (r"`\u00e9\`", r"\u00e9\"),
            ("`a\r\n`", "a\n"),
            ("\"\"", ""),
        ] {
            assert_eq!(quoted(&format!("{text} rest"), text.chars().next().unwrap()), Ok((meant.into(), text.len())));
        }
        for (text, place) in [
            (r#"ServiceID == "é\d""#, "1:16 (16): a backslash"),
            (r#"ServiceID == "\ud800""#, "1:15 (14)"),
            (r#"ServiceID == "\x+1""#, "1:15 (14)"),
            (r#"ServiceID == "\400""#, "1:15 (14)"),
            (r#"ServiceID == "a\'""#, "1:16 (15)"),
            (r#"ServiceID == "\u12""#, "1:15 (14)"),
            (r#"ServiceID == "\xff""#, "1:15 (14): is no UTF-8"),
            ("ServiceID == \"a\nb\"", "1:16 (15): a text in double quotes ends"),
            (r#"ServiceID == "a\"#, "1:14 (13): a text has no end"),
            (r#"ServiceID == "a\""#, "1:14 (13): a text has no end"),
        ] {
            assert!(wrong(text).starts_with(place), "{text}: {}", wrong(text));
        }
    }

    #[test]
    fn depth_and_length_are_bounded() {
        assert!(wrong(&"(".repeat(4000)).contains("nested deeper"));
        assert!(wrong(&"not ".repeat(1000)).contains("nested deeper"));
        assert!(wrong(&"x".repeat(5000)).contains("longer than"));
    }

    #[test]
    fn no_text_makes_it_panic() {
        let pieces =
            ["(", ")", "not", " ", "and", "==", "ServiceID", "\"", "`", "\\", "\\u00", "é", "[", "]", "in", "is", "."];
        let mut state = 7_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            let _ = parse(&text, INSTANCE);
        }
    }
}
