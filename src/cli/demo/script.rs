//! The demo's language: a step a line, the same in a script and at the keyboard.

use std::{fmt, str::FromStr};

use crate::model::{NodeName, Port, ServiceName};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Register(ServiceName, Port, NodeName),
    Resolve(ServiceName, NodeName),
    Kill(NodeName),
    Unplug(NodeName),
    Partition(Vec<NodeName>),
    Heal,
    Show,
    Agree,
    Restart(NodeName),
    Wait(ServiceName, Until),
    Report,
    Help,
    Quit,
}

/// What is waited for, on every living node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// DNS answers with all living instances.
    Seen,
    /// DNS answers with no instance of a dead node.
    Gone,
}

/// The steps of a script; `#` begins a comment. On a mistake, its line and what is wrong there.
pub(super) fn parse(text: &str) -> Result<Vec<Step>, (usize, String)> {
    let steps = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with('#'));
    steps.map(|(at, line)| line.parse().map_err(|why| (at + 1, why))).collect()
}

impl FromStr for Step {
    type Err = String;
    fn from_str(line: &str) -> Result<Self, String> {
        // "on" is there for the reader alone.
        let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "on").collect();
        let service = |name: &str| ServiceName::try_from(name).map_err(|error| error.to_string());
        let node = |name: &str| NodeName::try_from(name).map_err(|error| error.to_string());
        let port = |port: &str| port.parse::<Port>().map_err(|_| format!("port {port:?} is not 1 to 65535"));
        match words[..] {
            ["register", name, number, place] => Ok(Self::Register(service(name)?, port(number)?, node(place)?)),
            ["resolve", name, place] => Ok(Self::Resolve(service(name)?, node(place)?)),
            ["kill" | "k", place] => Ok(Self::Kill(node(place)?)),
            ["unplug" | "u", place] => Ok(Self::Unplug(node(place)?)),
            ["partition" | "p", ref places @ ..] if !places.is_empty() => {
                Ok(Self::Partition(places.iter().map(|place| node(place)).collect::<Result<_, _>>()?))
            }
            ["heal"] => Ok(Self::Heal),
            ["show" | "s"] => Ok(Self::Show),
            ["wait", "agreement"] => Ok(Self::Agree),
            ["restart" | "r", place] => Ok(Self::Restart(node(place)?)),
            ["wait", name, "seen"] => Ok(Self::Wait(service(name)?, Until::Seen)),
            ["wait", name, "gone"] => Ok(Self::Wait(service(name)?, Until::Gone)),
            ["report"] => Ok(Self::Report),
            ["help" | "h" | "?"] => Ok(Self::Help),
            ["quit" | "q"] => Ok(Self::Quit),
            _ => Err(format!("{line:?} is no step; `help` lists them")),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register(service, port, node) => write!(out, "register {service} {port} on {node}"),
            Self::Resolve(service, node) => write!(out, "resolve {service} on {node}"),
            Self::Kill(node) => write!(out, "kill {node}"),
            Self::Unplug(node) => write!(out, "unplug {node}"),
            Self::Partition(nodes) => {
                out.write_str("partition")?;
                nodes.iter().try_for_each(|node| write!(out, " {node}"))
            }
            Self::Heal => out.write_str("heal"),
            Self::Show => out.write_str("show"),
            Self::Agree => out.write_str("wait agreement"),
            Self::Restart(node) => write!(out, "restart {node}"),
            Self::Wait(service, until) => write!(out, "wait {service} {until}"),
            Self::Report => out.write_str("report"),
            Self::Help => out.write_str("help"),
            Self::Quit => out.write_str("quit"),
        }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Seen => "seen",
            Self::Gone => "gone",
        })
    }
}

/// What `help` prints.
pub(super) const HELP: &str = "\
register NAME PORT on NODE   register a service on a node
resolve NAME on NODE         ask a node's DNS for it
kill NODE, k NODE            end a node without a goodbye; its parent reads its last will
unplug NODE, u NODE          end a node and its parent, as a power cut would
partition NODE..., p NODE... cut these off from the others
heal                         take the cut back
show, s                      how each node sees the mesh
restart NODE, r NODE         start it again, with what was registered on it
wait NAME seen               until every node's DNS has all that lives
wait NAME gone               until no node's DNS has what died
wait agreement               until all living nodes know the same, and each other
report                       the times so far
quit, q";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_reads_as_it_is_written() {
        let text = "register web 80 on n1\nresolve web on n2\nkill n1\nunplug n2\nrestart n1\npartition n1 n3\nshow\nheal\nwait agreement\nwait web seen\nwait web gone\nreport\nquit";
        let steps = parse(text).unwrap();
        assert_eq!(steps.iter().map(Step::to_string).collect::<Vec<_>>().join("\n"), text);
        assert_eq!("k n1".parse::<Step>(), "kill n1".parse());
    }

    #[test]
    fn a_mistake_has_a_line() {
        assert_eq!(parse("# fine\n\nkill n1\nkil n1").unwrap_err().0, 4);
        assert!(parse("register web 0 on n1").unwrap_err().1.contains("port"));
        assert!(parse("kill a_b").unwrap_err().1.contains("node name"));
    }
}
