//! Rooms on gateways: absolute numbers of members, by life.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use futures::future::join_all;
use whimbrel_protocol::cluster::{RoomCounts, RoomKey, RoomOnGateway};
use whimbrel_registry::RegistryError;
use whimbrel_registry::validity;

use crate::inner::Inner;
use crate::keys::{Place, Room, life_of_text, life_text};
use crate::scripts::{bytes, text};
use crate::value;

/// How long it is remembered in which order a gateway has counted: far longer than a call that was cut off can come late.
const ORDERS_KEPT_MS: u64 = 3_600_000;

/// Who counts when a gateway itself says in which order; no teller of calls has that name.
const THE_GATEWAY: &str = "gateway";

impl Inner {
    pub(crate) async fn put_rooms(&self, counts: RoomCounts) -> Result<(), RegistryError> {
        let life = validity::room_counts(&counts)?;
        let mut parts: BTreeMap<Place, BTreeMap<Room, u32>> = BTreeMap::new();
        for count in counts.counts {
            let key = count.room.unwrap_or_default();
            validity::room(&key)?;
            let room = room_of(key);
            // Of two numbers for one room the later one holds.
            parts.entry(room.place()).or_default().insert(room, count.members);
        }
        let term = self.term_of(&life).await?;
        // A gateway of before does not say in which order it counts: then it is the order of the calls here.
        let (teller, order) = match counts.order {
            0 => (self.teller.clone(), self.orders.fetch_add(1, Ordering::Relaxed)),
            order => (THE_GATEWAY.to_owned(), order),
        };
        let parts = parts.into_iter().map(|(place, rooms)| {
            let mut keys = vec![self.keys.index(place, &life), self.keys.order(place, &life)];
            let mut arguments = vec![
                teller.clone().into_bytes(),
                format!("{order:020}").into_bytes(),
                ORDERS_KEPT_MS.to_string().into_bytes(),
                life_text(&life).into_bytes(),
                term.text().into_bytes(),
            ];
            for (room, members) in rooms {
                keys.push(self.keys.room(&room));
                arguments.push(room.name().into_bytes());
                arguments.push(members.to_string().into_bytes());
            }
            async move { self.run(place, &self.scripts.put_rooms, &keys, &arguments).await }
        });
        for outcome in join_all(parts).await {
            outcome?;
        }
        Ok(())
    }

    pub(crate) async fn look_up_room(&self, key: RoomKey) -> Result<Vec<RoomOnGateway>, RegistryError> {
        validity::room(&key)?;
        let room = room_of(key);
        let keys = [self.keys.room(&room)];
        let answer = self
            .run(room.place(), &self.scripts.look_up_room, &keys, &[])
            .await?;
        let fields = answer.list(0).ok_or_else(|| self.nonsense())?;
        let found: Vec<_> = fields
            .chunks(2)
            .filter_map(|pair| {
                let [field, value] = pair else { return None };
                let (term, members) = value::members(bytes(value)?)?;
                Some((life_of_text(&text(field)?)?, term, members))
            })
            .collect();
        let pairs = found.iter().map(|(life, term, _)| (life.clone(), *term));
        let ended = self.ended(pairs.collect::<Vec<_>>()).await?;
        self.lost_nothing_untold()?;
        let mut rooms: Vec<_> = found
            .into_iter()
            .filter(|(_, term, _)| !ended.contains(term))
            .map(|((gateway, incarnation), _, members)| RoomOnGateway {
                gateway: gateway.as_str().to_owned(),
                incarnation: incarnation.0,
                members,
            })
            .collect();
        rooms.sort_by(|a, b| (&a.gateway, a.incarnation).cmp(&(&b.gateway, b.incarnation)));
        Ok(rooms)
    }
}

fn room_of(key: RoomKey) -> Room {
    Room {
        app: key.app_key,
        room: key.room,
    }
}
