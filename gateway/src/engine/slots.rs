//! The connections of one reactor, each in a numbered slot that is used again and again.
//!
//! Whoever remembers a connection remembers a [`Place`]: slot and generation. A slot's generation changes with every use,
//! so that an answer, a push or a readiness event meant for an earlier owner finds nobody.

/// Where a connection is: which slot, and which use of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// The slot.
    pub(crate) slot: u32,
    /// Which use of it, from 1.
    pub(crate) generation: u32,
}

impl Place {
    /// As an event's token: generation and slot.
    pub(crate) fn token(self) -> mio::Token {
        let bits = (u64::from(self.generation) << 32) | u64::from(self.slot);
        mio::Token(usize::try_from(bits).expect("a gateway runs on 64-bit machines"))
    }

    /// The place a token was made of.
    pub(crate) fn of(token: mio::Token) -> Self {
        let bits = token.0 as u64;
        #[expect(clippy::cast_possible_truncation, reason = "each half is 32 bits wide")]
        let (slot, generation) = (bits as u32, (bits >> 32) as u32);
        Self { slot, generation }
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values in slots.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    occupied: usize,
}

impl<T> Slots<T> {
    /// No slot yet.
    pub(crate) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            occupied: 0,
        }
    }

    /// Puts a value into a free slot. The slot freed last is used first: few slots stay warm.
    pub(crate) fn insert(&mut self, value: T) -> Place {
        self.occupied += 1;
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.value = Some(value);
            return Place {
                slot,
                generation: entry.generation,
            };
        }
        let slot = u32::try_from(self.slots.len()).expect("descriptors run out long before 2^32 slots");
        self.slots.push(Slot {
            generation: 1,
            value: Some(value),
        });
        Place { slot, generation: 1 }
    }

    /// The value at `place`, if it is still there.
    pub(crate) fn at(&mut self, place: Place) -> Option<&mut T> {
        let slot = self.slots.get_mut(place.slot as usize)?;
        slot.value
            .as_mut()
            .filter(|_| slot.generation == place.generation)
    }

    /// Takes the value out of `place`, if it is still there; nobody finds it, or its place, again.
    pub(crate) fn remove(&mut self, place: Place) -> Option<T> {
        let slot = self.slots.get_mut(place.slot as usize)?;
        if slot.generation != place.generation {
            return None;
        }
        let value = slot.value.take()?;
        self.occupied -= 1;
        // A slot whose generations are used up is never used again.
        if let Some(next) = slot.generation.checked_add(1).filter(|next| *next != u32::MAX) {
            slot.generation = next;
            self.free.push(place.slot);
        }
        Some(value)
    }

    /// Where the value in `slot` is now.
    pub(crate) fn place_of(&self, slot: u32) -> Option<Place> {
        let entry = self.slots.get(slot as usize)?;
        entry.value.as_ref().map(|_| Place {
            slot,
            generation: entry.generation,
        })
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.occupied
    }

    /// All slots there ever were, in use or not.
    pub(crate) fn slot_count(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("descriptors run out long before 2^32 slots")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_owner_of_a_slot_is_not_found() {
        let mut slots = Slots::new();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(second.slot, first.slot, "the slot is used again at once");
        assert_eq!(slots.at(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.at(second), Some(&mut "second"));
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_retires() {
        let mut slots = Slots::new();
        let place = slots.insert(0);
        slots.remove(place).unwrap();
        slots.slots[0].generation = u32::MAX - 1;
        let last = slots.insert(1);
        slots.remove(last).unwrap();
        assert_ne!(slots.insert(2).slot, last.slot);
    }

    #[test]
    fn tokens_carry_slot_and_generation() {
        let place = Place {
            slot: 0xdead_beef,
            generation: 0x1234_5678,
        };
        assert_eq!(Place::of(place.token()), place);
    }
}
