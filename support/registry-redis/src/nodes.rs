//! Leases, and what follows from them: which terms go on.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use prost::Message as _;
use whimbrel_protocol::cluster::{NodeLease, Role};
use whimbrel_protocol::ids::{Incarnation, NodeId};
use whimbrel_registry::validity::{self, Life};
use whimbrel_registry::{ENDED_LEN_MAX, LEASELESS_GRACE, NODES_MAX, Put, RegistryError};

use crate::inner::{Inner, random};
use crate::keys::life_text;
use crate::scripts::{bytes, number};
use crate::value::Term;

impl Inner {
    pub(crate) async fn put_node(&self, lease: NodeLease) -> Result<Put, RegistryError> {
        let (life, ttl) = validity::lease(&lease)?;
        let asked = self.standings().asking(Instant::now());
        let arguments = vec![
            life.0.as_str().into(),
            format!("{:016x}", life.1.0).into_bytes(),
            lease.encode_to_vec(),
            ttl.as_millis().to_string().into_bytes(),
            Term(random()).text().into_bytes(),
            NODES_MAX.to_string().into_bytes(),
            ENDED_LEN_MAX.to_string().into_bytes(),
            // So that nobody is sent to one that leaves.
            if lease.draining { "1" } else { "0" }.into(),
        ];
        let answer = self.run_on_nodes(&self.scripts.put_node, arguments).await?;
        match answer.word.as_str() {
            "ok" => {
                let term = answer.text(0).and_then(|text| Term::of_text(&text));
                let term = term.ok_or_else(|| self.nonsense())?;
                // What was lost with a whole place is told by the registry's life, which is about to change.
                let tells = self.lives.is_published();
                let put = Put {
                    began: tells && answer.number(1) == Some(1),
                    term: NonZeroU64::new(term.0).filter(|_| tells),
                };
                let mut standings = self.standings();
                if standings.term_of(&life, Instant::now()) != Some(term) {
                    // Another life of it may have ended by this.
                    standings.doubt();
                    let asked = standings.asking(Instant::now());
                    standings.learn_term(asked, &life, term, ttl);
                } else {
                    standings.learn_term(asked, &life, term, ttl);
                }
                Ok(put)
            }
            "superseded" => Err(superseded(&life.0)),
            "full" => Err(validity::too_many_nodes()),
            _ => Err(self.nonsense()),
        }
    }

    pub(crate) async fn remove_node(
        &self,
        node: &NodeId,
        incarnation: Incarnation,
    ) -> Result<(), RegistryError> {
        let life = life_text(&(node.clone(), incarnation)).into_bytes();
        self.run_on_nodes(&self.scripts.remove_node, vec![life]).await?;
        self.standings().doubt();
        Ok(())
    }

    pub(crate) async fn nodes(&self, role: Option<Role>) -> Result<Vec<NodeLease>, RegistryError> {
        let answer = self.run_on_nodes(&self.scripts.nodes, Vec::new()).await?;
        let leases = answer.list(0).ok_or_else(|| self.nonsense())?;
        self.lost_nothing_untold()?;
        let mut leases: Vec<NodeLease> = leases
            .iter()
            .filter_map(|lease| NodeLease::decode(bytes(lease)?).ok())
            .filter(|lease| role.is_none_or(|role| lease.role == i32::from(role)))
            .collect();
        leases.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(leases)
    }

    /// The terms of lives that have something to say.
    pub(crate) async fn terms_of(
        &self,
        lives: impl IntoIterator<Item = Life>,
    ) -> Result<BTreeMap<Life, Term>, RegistryError> {
        let lives: BTreeSet<Life> = lives.into_iter().collect();
        let mut terms = BTreeMap::new();
        for life in lives {
            let term = self.term_of(&life).await?;
            terms.insert(life, term);
        }
        Ok(terms)
    }

    /// The term of a life; one without a lease gets a grace.
    pub(crate) async fn term_of(&self, life: &Life) -> Result<Term, RegistryError> {
        let asked = {
            let standings = self.standings();
            if let Some(term) = standings.term_of(life, Instant::now()) {
                return Ok(term);
            }
            standings.asking(Instant::now())
        };
        let arguments = vec![
            life_text(life).into_bytes(),
            Term(random()).text().into_bytes(),
            LEASELESS_GRACE.as_millis().to_string().into_bytes(),
        ];
        let answer = self.run_on_nodes(&self.scripts.believe, arguments).await?;
        if answer.word == "superseded" {
            return Err(superseded(&life.0));
        }
        let term = answer.text(0).and_then(|text| Term::of_text(&text));
        let left = answer.number(1);
        let (Some(term), Some(left)) = (term, left) else {
            return Err(self.nonsense());
        };
        self.standings()
            .learn_term(asked, life, term, Duration::from_millis(left));
        Ok(term)
    }

    /// Which of these terms have ended.
    pub(crate) async fn ended(
        &self,
        terms: impl IntoIterator<Item = (Life, Term)>,
    ) -> Result<BTreeSet<Term>, RegistryError> {
        let terms: BTreeSet<(Life, Term)> = terms.into_iter().collect();
        let mut ended = BTreeSet::new();
        let (mut unknown, asked) = (Vec::new(), {
            let standings = self.standings();
            standings.asking(Instant::now())
        });
        {
            let (standings, now) = (self.standings(), Instant::now());
            for (life, term) in terms {
                match standings.goes_on(term, now) {
                    Some(true) => {}
                    Some(false) => {
                        ended.insert(term);
                    }
                    None => unknown.push((life, term)),
                }
            }
        }
        if unknown.is_empty() {
            return Ok(ended);
        }
        let arguments = unknown
            .iter()
            .flat_map(|(life, term)| [life_text(life).into_bytes(), term.text().into_bytes()]);
        let answer = self
            .run_on_nodes(&self.scripts.standing, arguments.collect())
            .await?;
        let left = answer.list(0).ok_or_else(|| self.nonsense())?;
        let mut standings = self.standings();
        for ((_, term), left) in unknown.iter().zip(left) {
            let left = number(left).unwrap_or_default();
            standings.learn(asked, *term, Duration::from_millis(left));
            if left == 0 {
                ended.insert(*term);
            }
        }
        Ok(ended)
    }
}

fn superseded(node: &NodeId) -> RegistryError {
    RegistryError::Superseded {
        node: node.as_str().to_owned(),
    }
}
