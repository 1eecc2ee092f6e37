//! Network coordinates: an estimate of the round trip to nodes never measured (Dabek, Cox, Kaashoek, Morris 2004,
//! figure 3, with the height vectors of section 5.4).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Mesh, event::Change, roster::Distance};
use crate::model::NodeId;

/// A place in Vivaldi's space, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Where on the plane.
    pub at: [f32; 4],
    /// How far above it: the way to the network's core.
    pub height: f32,
    /// How sure it is of that: 0 is certain, 1 is a guess.
    pub error: f32,
}

/// Where everybody starts: at the origin, sure of nothing.
pub(super) const ORIGIN: Place = Place { at: [0.0; 4], height: MIN_HEIGHT, error: 1.0 };

impl Place {
    /// Whether a place that a peer sent is one.
    pub(super) fn is_sane(&self) -> bool {
        self.at.iter().all(|x| x.is_finite() && x.abs() < FAR)
            && (0.0..FAR).contains(&self.height)
            && (0.0..=MAX_ERROR).contains(&self.error)
    }

    /// The round trip between two places.
    #[must_use]
    pub fn rtt_to(&self, other: &Self) -> Duration {
        Duration::from_secs_f32(self.distance(other).clamp(0.0, FAR))
    }

    /// Moves towards where `rtt` to `other` would be right; `spread` in [-1, 1) parts two that stand on one spot.
    pub(super) fn observe(&mut self, other: &Self, rtt: Duration, spread: f32) {
        let rtt = rtt.as_secs_f32().clamp(MIN_RTT, FAR);
        let distance = self.distance(other);
        let weight = self.error / (self.error + other.error).max(MIN_ERROR);
        let miss = (distance - rtt).abs() / rtt;
        self.error = (miss * CE * weight + self.error * (1.0 - CE * weight)).clamp(MIN_ERROR, MAX_ERROR);
        let force = CC * weight * (rtt - distance);
        let plane = distance - self.height - other.height;
        let mut direction = [0.0; 4];
        if plane > MIN_RTT {
            for (axis, (a, b)) in self.at.iter().zip(other.at).enumerate() {
                direction[axis] = (a - b) / plane;
            }
        } else {
            direction[0] = if spread < 0.0 { -1.0 } else { 1.0 };
        }
        for (x, d) in self.at.iter_mut().zip(direction) {
            *x = (*x + d * force).clamp(-FAR + 1.0, FAR - 1.0);
        }
        if plane > MIN_RTT {
            let share = (self.height + other.height) / plane;
            self.height = (self.height + share * force).clamp(MIN_HEIGHT, FAR - 1.0);
        }
    }

    fn distance(&self, other: &Self) -> f32 {
        let plane = self.at.iter().zip(other.at).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        plane + self.height + other.height
    }
}

impl Mesh {
    /// A round trip was measured.
    pub(super) fn on_rtt(&mut self, id: NodeId, rtt: Duration) {
        let spread = self.chance() - 0.5;
        let Some(seen) = self.roster.get_mut(id) else { return };
        let distance = seen.distance.get_or_insert_with(Box::<Distance>::default);
        distance.rtt.observe(rtt);
        self.rumors.measured(rtt);
        if let Some(place) = distance.place {
            self.place.observe(&place, rtt, spread as f32);
            self.changes.insert(Change::Distance(self.id));
        }
        self.changes.insert(Change::Distance(id));
    }

    pub(super) fn on_place(&mut self, from: NodeId, place: Place) {
        if !place.is_sane() {
            return self.garbage(from, "a place outside the world");
        }
        if let Some(seen) = self.roster.get_mut(from) {
            seen.distance.get_or_insert_with(Box::<Distance>::default).place = Some(place);
            self.changes.insert(Change::Distance(from));
        }
    }
}

/// The paper's c_e and c_c.
const CE: f32 = 0.25;
const CC: f32 = 0.25;
const MIN_ERROR: f32 = 0.001;
const MAX_ERROR: f32 = 1.5;
/// Ten microseconds: loopback is not nearer.
const MIN_HEIGHT: f32 = 1e-5;
const MIN_RTT: f32 = 1e-6;
/// Ten seconds: nothing on Earth is farther.
const FAR: f32 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_triangle_is_found() {
        let sides = [[0.0, 0.010, 0.020], [0.010, 0.0, 0.025], [0.020, 0.025, 0.0]];
        let mut places = [ORIGIN; 3];
        for round in 0..500_usize {
            let (a, b) = [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)][round % 6];
            let other = places[b];
            places[a].observe(&other, Duration::from_secs_f32(sides[a][b]), if round % 4 < 2 { 0.5 } else { -0.5 });
        }
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            let miss = (places[a].rtt_to(&places[b]).as_secs_f32() - sides[a][b]).abs() / sides[a][b];
            assert!(miss < 0.15, "{a}-{b} is off by {miss}");
        }
        assert!(places.iter().all(Place::is_sane));
    }

    #[test]
    fn a_place_a_liar_sends_is_refused() {
        for (at, height, error) in [(f32::NAN, 0.0, 0.0), (1e9, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, f32::INFINITY)]
        {
            assert!(!Place { at: [at, 0.0, 0.0, 0.0], height, error }.is_sane());
        }
    }
}
