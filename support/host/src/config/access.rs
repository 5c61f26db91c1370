//! The inside of lists, tables and enums, as serde asks for it; each item knows its place.

use std::collections::btree_map;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess,
    Visitor, value::StringDeserializer,
};

use super::{
    inside,
    tree::Node,
    walk::{At, Walk, WalkError},
};

/// A list's items.
pub(super) struct Items<'w, 'r, I> {
    pub(super) items: I,
    pub(super) place: String,
    pub(super) walk: &'w Walk<'r>,
}

impl<'de, I: Iterator<Item = (usize, Node)>> SeqAccess<'de> for Items<'_, '_, I> {
    type Error = WalkError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, WalkError> {
        self.items
            .next()
            .map(|(index, node)| {
                let place = format!("{}[{index}]", self.place);
                seed.deserialize(At {
                    node,
                    place,
                    walk: self.walk,
                })
            })
            .transpose()
    }
}

/// A table's entries; the value waits while serde looks at its key.
pub(super) struct Entries<'w, 'r> {
    pub(super) entries: btree_map::IntoIter<String, Node>,
    pub(super) value: Option<(String, Node)>,
    pub(super) place: String,
    pub(super) walk: &'w Walk<'r>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = WalkError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, WalkError> {
        let Some((key, node)) = self.entries.next() else {
            return Ok(None);
        };
        let deserializer: StringDeserializer<WalkError> = key.clone().into_deserializer();
        self.value = Some((key, node));
        seed.deserialize(deserializer).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, WalkError> {
        let (key, node) = self
            .value
            .take()
            .expect("serde asks for a value only after its key");
        let place = inside(&self.place, &key);
        seed.deserialize(At {
            node,
            place,
            walk: self.walk,
        })
    }
}

/// A choice: its name, and its settings if it has any.
pub(super) struct Variant<'w, 'r> {
    pub(super) name: String,
    pub(super) content: Option<At<'w, 'r>>,
}

impl<'de, 'w, 'r> EnumAccess<'de> for Variant<'w, 'r> {
    type Error = WalkError;
    type Variant = Content<'w, 'r>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'w, 'r>), WalkError> {
        let name: StringDeserializer<WalkError> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Content(self.content)))
    }
}

/// What follows a variant's name, if anything.
pub(super) struct Content<'w, 'r>(Option<At<'w, 'r>>);

impl<'w, 'r> Content<'w, 'r> {
    fn required(self) -> Result<At<'w, 'r>, WalkError> {
        self.0
            .ok_or_else(|| de::Error::custom("this choice needs a table of settings, not its name alone"))
    }
}

impl<'de> VariantAccess<'de> for Content<'_, '_> {
    type Error = WalkError;

    fn unit_variant(self) -> Result<(), WalkError> {
        match self.0 {
            None => Ok(()),
            Some(_) => Err(de::Error::custom(
                "this choice takes no settings: write its name alone",
            )),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, WalkError> {
        seed.deserialize(self.required()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, WalkError> {
        self.required()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, WalkError> {
        self.required()?.deserialize_struct("", fields, visitor)
    }
}
