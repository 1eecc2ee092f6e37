//! From the start of a process to its first right answer, with a full store.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use crate::{
    Effort, Row, Spans,
    durable::{register, registration},
    fleet::{Agent, Recipe, home},
    questions::{Answer, Asker, Question},
    row,
};

/// The rows for a restart after a goodbye, and after SIGKILL.
pub(crate) fn restart(effort: Effort) -> Vec<Row> {
    let times = effort.pick(20, 3);
    let home = home();
    let mut recipe = Recipe::new(home.path(), "n0");
    let agent = recipe.start();
    let ready = agent.ready();
    recipe.dns = ready.dns;
    register(ready.http, SERVICES);
    let mut running = Some(agent);
    let mut again = |end: fn(Agent)| {
        let mut took = || {
            running.take().map(end);
            let began = Instant::now();
            running = Some(recipe.start());
            answered(&recipe, began)
        };
        let spans = Spans::of((0..times).map(|_| took()));
        format!("{:.1} / {:.1} ms", spans.millis(0.5), spans.millis(1.0))
    };
    let what = format!("restart to first right answer, {SERVICES} services stored: p50 / max of {times}");
    vec![
        row(format!("{what}, after SIGTERM"), "50 ms", again(Agent::stop), ""),
        row(format!("{what}, after SIGKILL"), "50 ms", again(drop), ""),
    ]
}

fn answered(recipe: &Recipe, began: Instant) -> Duration {
    let (_, name, address) = registration(SERVICES - 1);
    let mut question = Question::new(&name, address);
    let mut asker = Asker::new(recipe.dns);
    loop {
        asker.ask(&mut question);
        sleep(Duration::from_micros(200));
        if asker.look(&question) == Answer::Right {
            return began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(10), "no right answer");
    }
}

const SERVICES: usize = 10_000;
