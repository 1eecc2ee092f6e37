//! Service files: TOML with `[[services]]`, and Consul's JSON. Each is checked as a whole, and every mistake is told.

use std::path::Path;

use toml::{Spanned, de::DeValue};

use super::{
    Error, Mistakes, consul,
    document::{self, Document, Line, Source},
    mistake::by_line,
};
use crate::model::RegistrationDraft;

/// Reads the services in one file, by its ending: `.json` is Consul's form, anything else TOML. They are checked.
///
/// # Errors
/// All mistakes, each with its place.
pub fn read(path: &Path) -> Result<Vec<RegistrationDraft>, Mistakes> {
    let mut mistakes = Vec::new();
    let services = file(path, &mut mistakes).into_iter().map(|service| service.draft).collect();
    Mistakes::unless(mistakes, Some(services))
}

/// A registration and the place that asks for it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) draft: RegistrationDraft,
    pub(super) place: String,
    /// Its first check that is a script, and the place of that.
    pub(super) script: Option<(usize, String)>,
}

impl Wanted {
    /// What tells it from the others.
    pub(super) fn id(&self) -> &str {
        self.draft.id.as_deref().unwrap_or(&self.draft.name)
    }
}

/// What one file wants registered. What is wrong with it is noted.
pub(super) fn file(path: &Path, mistakes: &mut Vec<Error>) -> Vec<Wanted> {
    match super::text(path) {
        Ok(text) => parse(Source { name: &path.display().to_string(), text: &text }, mistakes),
        Err(error) => {
            mistakes.push(Error::io(path, &error));
            Vec::new()
        }
    }
}

/// The same of a text.
pub(super) fn parse(source: Source<'_>, mistakes: &mut Vec<Error>) -> Vec<Wanted> {
    let before = mistakes.len();
    let read = if source.name.ends_with(".json") { json } else { toml };
    let services = read(source, mistakes);
    by_line(&mut mistakes[before..]);
    services
}

fn toml(source: Source<'_>, mistakes: &mut Vec<Error>) -> Vec<Wanted> {
    let Some(mut document) = Document::toml(source, mistakes) else { return Vec::new() };
    let services = document.take("services");
    for (key, at) in document.keys() {
        mistakes.push(source.blame(at, format!("holds `{key}`: a service file holds [[services]] alone")));
    }
    services.map(|services| list(source, services, mistakes)).unwrap_or_default()
}

/// The services in `[[services]]`.
pub(super) fn list(source: Source<'_>, services: Spanned<DeValue<'_>>, mistakes: &mut Vec<Error>) -> Vec<Wanted> {
    let at = services.span().start;
    let DeValue::Array(services) = services.into_inner() else {
        mistakes.push(source.blame(at, "`services` is not a list: write [[services]]"));
        return Vec::new();
    };
    let each = services.into_iter().enumerate();
    let mut line = Line::FIRST;
    each.filter_map(|(n, service)| one(source, service, format!("services[{n}]."), &mut line, mistakes)).collect()
}

fn json(source: Source<'_>, mistakes: &mut Vec<Error>) -> Vec<Wanted> {
    let services = document::json(source).and_then(|tree| consul::services(source, tree));
    let services = services.unwrap_or_else(|error| {
        mistakes.push(error);
        Vec::new()
    });
    let each = services.into_iter();
    let mut line = Line::FIRST;
    each.filter_map(|(path, service)| {
        let ours = consul::service(source, service, mistakes)?;
        one(source, ours, format!("{path}."), &mut line, mistakes)
    })
    .collect()
}

fn one<'t>(
    source: Source<'t>,
    service: Spanned<DeValue<'t>>,
    prefix: String,
    line: &mut Line,
    mistakes: &mut Vec<Error>,
) -> Option<Wanted> {
    let span = service.span();
    let DeValue::Table(table) = service.into_inner() else {
        mistakes.push(source.blame(span.start, format!("{} is not a table", prefix.trim_end_matches('.'))));
        return None;
    };
    let place = source.place(span.start, line);
    let mut document = Document::part(source, Spanned::new(span, table), prefix);
    let draft = document.registration(mistakes)?;
    let script = draft.checks.iter().position(|check| check.script.is_some());
    let script =
        script.map(|n| (n, source.place(document.start_of(&format!("checks[{n}].script")), &mut line.clone())));
    Some(Wanted { draft, place, script })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let mut mistakes = Vec::new();
        parse(Source { name: "a.toml", text }, &mut mistakes);
        mistakes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_follows_from_a_wrong_port_is_no_mistake_of_its_own() {
        let text = "[[services]]\nname = \"a\"\nport = 99999\nchecks = [{ tcp = \"\" }, { http = \"/x\" }]\n";
        assert_eq!(told(text), ["a.toml, line 3: services[0].port is 99999; a port is 1 to 65535"]);
    }

    #[test]
    fn a_misspelt_kind_hides_no_other_mistake_of_its_check() {
        let check = "htpp = \"/\"\ninterval = \"0s\"\nrise = 0\n";
        let expected = [
            "a.toml, line 5: services[0]: unknown key `htpp`; did you mean `http`?",
            "a.toml, line 6: services[0].checks[0].interval must be at least 100ms",
            "a.toml, line 7: services[0].checks[0].rise must be at least 1",
        ];
        assert_eq!(told(&format!("[[services]]\nname = \"a\"\nport = 1\n[[services.checks]]\n{check}")), expected);
    }
}
