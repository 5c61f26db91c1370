//! A user's sessions, one for each device, by device. A user has one or two, rarely more: a list with no more room than that is
//! a fifth of the node that an ordered map would begin with.

use whimbrel_protocol::cluster::SessionRecord;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Devices(Vec<SessionRecord>);

impl Devices {
    fn find(&self, device: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|session| session.device_id.as_str().cmp(device))
    }

    pub(crate) fn get(&self, device: &str) -> Option<&SessionRecord> {
        self.0.get(self.find(device).ok()?)
    }

    /// Puts a session in its device's place; the one that was there comes back.
    pub(crate) fn insert(&mut self, session: SessionRecord) -> Option<SessionRecord> {
        match self.find(&session.device_id) {
            Ok(at) => self.0.get_mut(at).map(|there| std::mem::replace(there, session)),
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, session);
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, device: &str) -> Option<SessionRecord> {
        let session = self.0.remove(self.find(device).ok()?);
        self.0.shrink_to_fit();
        Some(session)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, by device.
    pub(crate) fn sessions(&self) -> std::slice::Iter<'_, SessionRecord> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(device_id: &str, login_epoch: u64) -> SessionRecord {
        SessionRecord {
            device_id: device_id.to_owned(),
            login_epoch,
            ..SessionRecord::default()
        }
    }

    #[test]
    fn each_device_has_one_session_and_they_stand_in_order() {
        let mut devices = Devices::default();
        for device in ["b", "c", "a"] {
            assert_eq!(devices.insert(session(device, 1)), None);
        }
        assert_eq!(devices.insert(session("b", 2)), Some(session("b", 1)));
        let order: Vec<_> = devices.sessions().map(|session| &session.device_id[..]).collect();
        assert_eq!(order, ["a", "b", "c"]);
        assert_eq!(devices.get("b"), Some(&session("b", 2)));
        assert_eq!(devices.remove("a"), Some(session("a", 1)));
        assert_eq!((devices.remove("a"), devices.get("a")), (None, None));
        assert_eq!(devices.len(), 2);
    }

    #[test]
    fn there_is_room_for_as_many_as_there_are() {
        let mut devices = Devices::default();
        devices.insert(session("a", 1));
        assert_eq!(devices.0.capacity(), 1);
        devices.insert(session("b", 1));
        assert_eq!(devices.0.capacity(), 2);
        devices.remove("a");
        assert_eq!(devices.0.capacity(), 1);
    }
}
