//! XML as Eureka's clients write and read it, to and from the JSON that says the same: `<port enabled="true">80</port>` is
//! `{"port": {"$": 80, "@enabled": "true"}}`, and elements of one name are a list.
//!
//! What is read is hostile: no document types, so no entities but the five of XML itself; bounds on depth and number.

use std::fmt::Write;

use serde_json::{Map, Value};

/// The document as an object with one key, its root. An error says the line.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut reader = Reader { rest: text.trim_start_matches('\u{feff}'), elements: 0 };
    reader.document().map_err(|why| {
        let line = text[..text.len() - reader.rest.len()].matches('\n').count() + 1;
        format!("{why} at line {line}")
    })
}

struct Reader<'t> {
    rest: &'t str,
    elements: usize,
}

type Wrong = &'static str;

impl<'t> Reader<'t> {
    fn document(&mut self) -> Result<Value, Wrong> {
        self.skip()?;
        let (name, value) = self.element(0)?;
        self.skip()?;
        if !self.rest.is_empty() {
            return Err("something stands behind the document's element");
        }
        Ok(Value::Object(Map::from_iter([(name.to_owned(), value)])))
    }

    /// Skips what says nothing: space, comments, instructions.
    fn skip(&mut self) -> Result<(), Wrong> {
        loop {
            self.rest = self.rest.trim_start();
            if self.take("<!--") {
                self.until("-->", "a comment does not end")?;
            } else if self.take("<?") {
                self.until("?>", "an instruction does not end")?;
            } else {
                return Ok(());
            }
        }
    }

    fn element(&mut self, depth: usize) -> Result<(&'t str, Value), Wrong> {
        self.elements += 1;
        if depth > MAX_DEPTH || self.elements > MAX_ELEMENTS {
            return Err("there are more elements than an instance has");
        }
        if !self.take("<") {
            return Err("an element is missing");
        }
        let name = self.name()?;
        let mut fields = self.attributes()?;
        if self.take("/>") {
            return Ok((name, value(fields, String::new())));
        }
        if !self.take(">") {
            return Err("a tag does not end");
        }
        let mut text = String::new();
        loop {
            let plain = self.until_before('<').ok_or("an element does not end")?;
            decode(plain, &mut text)?;
            if self.take("</") {
                let same = self.name()? == name;
                self.rest = self.rest.trim_start();
                return if same && self.take(">") { Ok((name, value(fields, text))) } else { Err("tags do not match") };
            } else if self.take("<![CDATA[") {
                text.push_str(self.until("]]>", "a text does not end")?);
            } else if self.rest.starts_with("<!--") || self.rest.starts_with("<?") {
                self.skip()?;
            } else {
                let (name, child) = self.element(depth + 1)?;
                add(&mut fields, name, child);
            }
        }
    }

    fn attributes(&mut self) -> Result<Map<String, Value>, Wrong> {
        let mut fields = Map::new();
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.starts_with(['>', '/']) {
                return Ok(fields);
            }
            let name = self.name()?;
            self.rest = self.rest.trim_start();
            if !self.take("=") {
                return Err("an attribute has no value");
            }
            self.rest = self.rest.trim_start();
            let quote = ["\"", "'"].into_iter().find(|quote| self.rest.starts_with(quote));
            let quote = quote.ok_or("an attribute's value is not quoted")?;
            self.take(quote);
            let mut text = String::new();
            decode(self.until(quote, "an attribute's value does not end")?, &mut text)?;
            fields.insert(format!("@{name}"), Value::String(text));
        }
    }

    fn name(&mut self) -> Result<&'t str, Wrong> {
        let end = self.rest.find(|c| !in_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        if is_name(name) { Ok(name) } else { Err("a name is missing, or is none") }
    }

    fn take(&mut self, what: &str) -> bool {
        let rest = self.rest.strip_prefix(what);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn until(&mut self, end: &str, why: Wrong) -> Result<&'t str, Wrong> {
        let (before, rest) = self.rest.split_once(end).ok_or(why)?;
        self.rest = rest;
        Ok(before)
    }

    fn until_before(&mut self, end: char) -> Option<&'t str> {
        let (before, rest) = self.rest.split_at(self.rest.find(end)?);
        self.rest = rest;
        Some(before)
    }
}

/// An element's worth: its text where there is nothing else.
fn value(mut fields: Map<String, Value>, text: String) -> Value {
    let text = text.trim();
    if fields.is_empty() {
        return Value::String(text.into());
    }
    if !text.is_empty() {
        fields.insert("$".into(), Value::String(text.into()));
    }
    Value::Object(fields)
}

/// A second child of one name makes a list.
fn add(fields: &mut Map<String, Value>, name: &str, child: Value) {
    match fields.get_mut(name) {
        None => drop(fields.insert(name.to_owned(), child)),
        Some(Value::Array(list)) => list.push(child),
        Some(one) => *one = Value::Array(vec![one.take(), child]),
    }
}

/// Text without its references.
fn decode(mut text: &str, to: &mut String) -> Result<(), Wrong> {
    while let Some((before, rest)) = text.split_once('&') {
        to.push_str(before);
        let (name, rest) = rest.split_once(';').ok_or("a reference does not end")?;
        let number = name.strip_prefix('#').map(|digits| match digits.strip_prefix('x') {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => digits.parse(),
        });
        let known = ENTITIES.iter().find(|(_, known)| *known == name).map(|(c, _)| *c);
        let c = match number {
            Some(number) => number.ok().and_then(char::from_u32),
            None => known,
        };
        to.push(c.ok_or("a reference is to nothing that XML knows by itself")?);
        text = rest;
    }
    to.push_str(text);
    Ok(())
}

/// An object with one key as a document. What XML has no form for is left out: keys that are no names.
pub(super) fn write(document: &Value) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    for (name, root) in document.as_object().into_iter().flatten() {
        write_element(name, root, &mut out);
    }
    out
}

fn write_element(name: &str, value: &Value, out: &mut String) {
    if let Value::Array(list) = value {
        return list.iter().for_each(|one| write_element(name, one, out));
    }
    if !is_free(name) {
        return;
    }
    out.push('<');
    out.push_str(name);
    let none = Map::new();
    let fields = value.as_object().unwrap_or(&none);
    for (key, value) in fields {
        if let Some(key) = key.strip_prefix('@').filter(|key| is_free(key)) {
            // Writing to memory does not fail.
            let _ = write!(out, " {key}=\"");
            write_text(value, out);
            out.push('"');
        }
    }
    out.push('>');
    write_text(fields.get("$").unwrap_or(value), out);
    for (key, value) in fields.iter().filter(|(key, _)| !key.starts_with(['@', '$'])) {
        write_element(key, value, out);
    }
    let _ = write!(out, "</{name}>");
}

fn write_text(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => {
            for c in text.chars() {
                match ENTITIES.iter().find(|(escaped, _)| *escaped == c) {
                    Some((_, name)) => out.extend(["&", name, ";"]),
                    // XML 1.0 has no place for the others (section 2.2).
                    None if c >= ' ' || matches!(c, '\t' | '\n' | '\r') => out.push(c),
                    None => {}
                }
            }
        }
        Value::Number(_) | Value::Bool(_) => {
            let _ = write!(out, "{value}");
        }
        _ => {}
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_') && text.chars().all(in_name)
}

/// Whether a name may stand anywhere: one with a colon belongs to a namespace, which readers must know (Namespaces in XML 1.0).
fn is_free(text: &str) -> bool {
    is_name(text) && !text.contains(':')
}

fn in_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':')
}

const ENTITIES: [(char, &str); 5] = [('&', "amp"), ('<', "lt"), ('>', "gt"), ('"', "quot"), ('\'', "apos")];
/// An instance's are four deep.
const MAX_DEPTH: usize = 16;
/// An instance has some thirty, and one for each pair of meta data.
const MAX_ELEMENTS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn xml_says_what_json_says() {
        let text = "<?xml version='1.0'?>\n<!-- x --><instance><app>A &amp; &#66;</app><port enabled=\"true\">80</port>\
                    <metadata class='map'/><list>1</list><list><![CDATA[<2>]]></list><e></e></instance>\n";
        let value = json!({"instance": {
            "app": "A & B", "port": {"$": "80", "@enabled": "true"}, "metadata": {"@class": "map"}, "list": ["1", "<2>"],
            "e": "",
        }});
        assert_eq!(parse(text).unwrap(), value);
        assert_eq!(parse(&write(&value)).unwrap(), value);
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_line() {
        let (deep, many) = ("<a>".repeat(MAX_DEPTH + 2), format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS)));
        for bad in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a b=c/>",
            "<a b/>",
            "<a b='>",
            "<a>&lol;</a>",
            "<a>&#xd800;</a>",
            "<a>&amp</a>",
            "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
            "<a><!DOCTYPE b></a>",
            "<a><!-- </a>",
            "<1/>",
            &deep,
            &many,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(parse("<a>\n<b>\n</c></a>").unwrap_err(), "tags do not match at line 3");
    }

    /// What XML is made of, and what breaks it.
    const PIECES: &str = r#"(<a>|</a>|<a |<b/>|<!--|-->|<!\[CDATA\[|\]\]>|<\?|[<>/=&;#!?"' \nax1é-]){0,40}"#;

    proptest::proptest! {
        #[test]
        fn any_text_is_a_document_or_a_mistake(text in PIECES) {
            if let Ok(value) = parse(&text) {
                proptest::prop_assert!(parse(&write(&value)).is_ok(), "{}", write(&value));
            }
        }
    }

    #[test]
    fn what_xml_cannot_say_is_left_out() {
        let text = write(&json!({"a": {"b c": 1, "b:c": 1, "d": "x\u{0}<", "@e f": "g", "@e:f": "g", "h": null}}));
        assert!(text.ends_with("<a><d>x&lt;</d><h></h></a>"), "{text}");
    }
}
