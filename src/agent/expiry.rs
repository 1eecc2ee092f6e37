//! When to tell that a certificate's end is near, or past.

use std::time::{Duration, SystemTime};

use super::{Paper, trust::Says};

/// What was told of the end of a certificate, and of those after it that end at the same moment.
#[derive(Debug, Default)]
pub(crate) struct Expiry(Option<Told>);

/// Of which end, and when.
#[derive(Debug)]
struct Told {
    stage: Stage,
    end: SystemTime,
    at: SystemTime,
}

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Soon,
    Over,
}

impl Expiry {
    /// What is to be told at `now`: [`Paper::Expires`], [`Paper::Expired`], or nothing yet or again.
    pub(crate) fn due(&mut self, says: &Says, now: SystemTime) -> Option<Paper> {
        let (serial, left) = (says.serial.clone(), says.not_after.duration_since(now).unwrap_or_default());
        let (stage, paper) = match () {
            () if left.is_zero() => (Stage::Over, Paper::Expired { serial }),
            () if says.expires_soon(now) => {
                (Stage::Soon, Paper::Expires { serial, left: Duration::from_secs(left.as_secs()) })
            }
            () => return None,
        };
        let end = says.not_after;
        let is_told = |told: &Told| {
            (told.stage, told.end) == (stage, end) && now.duration_since(told.at).unwrap_or_default() <= AGAIN
        };
        if self.0.as_ref().is_some_and(is_told) {
            return None;
        }
        self.0 = Some(Told { stage, end, at: now });
        Some(paper)
    }
}

/// A warning that is read is read once a day.
pub(super) const AGAIN: Duration = Duration::from_secs(24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_of_from_the_last_fifth_on_once_a_day() {
        let day = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(n * 24 * 3600);
        let says = Says { issuer: "CN=a".into(), serial: "1".into(), not_before: day(0), not_after: day(10) };
        let mut expiry = Expiry::default();
        let moments = (0..48).map(|hours| day(7) + Duration::from_secs(hours * 2 * 3600));
        let told: Vec<_> = moments.filter_map(|now| Some((now, expiry.due(&says, now)?))).collect();
        let (mut soon, mut over) = (0, 0);
        for (now, paper) in told {
            match paper {
                Paper::Expires { left, .. } => soon += usize::from(now > day(8) && day(10) - left == now),
                _ => over += usize::from(now >= day(10)),
            }
        }
        assert_eq!((soon, over), (2, 1));
        let next = Says { serial: "2".into(), not_before: day(9), ..says };
        assert!(expiry.due(&next, day(11)).is_none(), "the next ends with it: its end was told of");
        assert!(expiry.due(&Says { not_after: day(12), ..next }, day(12)).is_some());
    }
}
