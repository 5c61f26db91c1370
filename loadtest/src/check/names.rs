//! Short names for what a history speaks of millions of times.
//!
//! They are hashes, so that processes that share no table give the same thing the same name. Of ten million texts two
//! share a name once in 370,000 runs.

use std::collections::BTreeMap;
use std::fmt;

use whimbrel_protocol::bucket::city_hash;
use whimbrel_protocol::ids::ConversationId;

/// A user, by the customer's name for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct User(pub u64);

/// A device of a user, by both their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device(pub u64);

/// What a message says; unique in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(pub u64);

impl User {
    /// The user of this uid.
    #[must_use]
    pub fn named(uid: &str) -> Self {
        Self(city_hash(uid.as_bytes()))
    }
}

impl Device {
    /// The device of this name of the user of this uid.
    #[must_use]
    pub fn named(uid: &str, device: &str) -> Self {
        // A zero byte occurs in neither.
        Self(city_hash(format!("{uid}\0{device}").as_bytes()))
    }
}

impl Text {
    /// The name of a text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(city_hash(text.as_bytes()))
    }

    /// Begins the text of a message that names the conversation it is for, as [`Text::conversation`] finds it again.
    #[must_use]
    pub fn begin(id: ConversationId) -> String {
        format!("{id} ")
    }

    /// The conversation that a text says it is for, if it does.
    #[must_use]
    pub fn conversation(text: &str) -> Option<ConversationId> {
        let (first, _) = text.split_once(' ')?;
        first.parse().ok()
    }
}

/// The long names, for whoever reads of a violation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    users: BTreeMap<User, String>,
    devices: BTreeMap<Device, String>,
}

impl Names {
    /// Keeps a user's name.
    pub fn add_user(&mut self, uid: &str) -> User {
        let user = User::named(uid);
        self.users.entry(user).or_insert_with(|| uid.to_owned());
        user
    }

    /// Keeps a device's name.
    pub fn add_device(&mut self, uid: &str, device: &str) -> Device {
        let id = Device::named(uid, device);
        let long = || format!("{uid}/{device}");
        self.devices.entry(id).or_insert_with(long);
        id
    }

    /// A user as text.
    #[must_use]
    pub fn user(&self, user: User) -> Named<'_> {
        Named(self.users.get(&user).map(String::as_str), user.0)
    }

    /// A device as text: its user's name, a slash, its own.
    #[must_use]
    pub fn device(&self, device: Device) -> Named<'_> {
        Named(self.devices.get(&device).map(String::as_str), device.0)
    }
}

/// A long name where it is known, else the short one.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a>(Option<&'a str>, u64);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => f.write_str(name),
            None => write!(f, "#{:016x}", self.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use whimbrel_protocol::ids::ConversationKind;

    use super::*;

    #[test]
    fn a_text_tells_the_conversation_it_is_for() {
        let id = ConversationId::from_parts(ConversationKind::Group, [7; 15]);
        let text = Text::begin(id) + "17 of ann's phone";
        assert_eq!(Text::conversation(&text), Some(id));
        assert_eq!(Text::conversation("hello there"), None);
    }

    #[test]
    fn names_of_users_and_devices_do_not_run_together() {
        assert_ne!(Device::named("ann", "b"), Device::named("an", "nb"));
        let mut names = Names::default();
        let device = names.add_device("ann", "phone");
        assert_eq!(names.device(device).to_string(), "ann/phone");
        assert_eq!(names.user(User(255)).to_string(), "#00000000000000ff");
    }
}
