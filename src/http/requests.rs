//! Counts of requests by route and class of status: bounded, since the routes are.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{response::Response, routing::MethodRouter};
use tower::util::MapResponseLayer;

/// The counts of all routes.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests(Vec<(&'static str, Arc<Classes>)>);

/// Answers by the first digit of their status, 1 to 5.
#[derive(Debug, Default)]
pub(super) struct Classes([AtomicU64; 5]);

impl Requests {
    /// A set of counts shown under this name.
    pub(super) fn route(&mut self, path: &'static str) -> Arc<Classes> {
        let classes = Arc::<Classes>::default();
        self.0.push((path, Arc::clone(&classes)));
        classes
    }

    /// The same route with its answers counted.
    pub(super) fn counted<S: Clone + Send + Sync + 'static>(
        &mut self,
        path: &'static str,
        methods: MethodRouter<S>,
    ) -> MethodRouter<S> {
        let classes = self.route(path);
        methods.layer(MapResponseLayer::new(move |response: Response| {
            classes.add(&response);
            response
        }))
    }

    /// Every route's path.
    #[cfg(test)]
    pub(super) fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(path, _)| *path)
    }

    /// Every route, class of status (`2xx`) and count that is not zero.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let classes = |classes: &Classes| classes.0.each_ref().map(|count| count.load(Ordering::Relaxed));
        self.0.iter().flat_map(move |(path, counts)| {
            classes(counts)
                .into_iter()
                .zip(NAMES)
                .filter(|(count, _)| *count > 0)
                .map(|(count, class)| (*path, class, count))
        })
    }
}

impl Classes {
    /// Counts one answer.
    pub(super) fn add<B>(&self, response: &axum::http::Response<B>) {
        let class = usize::from(response.status().as_u16() / 100).saturating_sub(1);
        if let Some(count) = self.0.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

const NAMES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
