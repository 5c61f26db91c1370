//! `[lbs]` of a configuration file.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use whimbrel_host::{config::OutOfBounds, http::HttpLimits};

use crate::answer::GATEWAYS_LIMIT_MAX;

/// How the LBS is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LbsConfig {
    /// Where it answers HTTP. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// How often the gateways are read from the registry. A gateway that begins to drain is listed for at most this long.
    #[serde(with = "humantime_serde")]
    pub refresh_interval: Duration,
    /// How long the registry may take to answer before it counts as gone.
    #[serde(with = "humantime_serde")]
    pub registry_timeout: Duration,
    /// How long the gateways known before stay listed when the registry has lost all it knew, while they announce
    /// themselves again.
    #[serde(with = "humantime_serde")]
    pub registry_loss_grace: Duration,
    /// How old a client may let this answer become before it asks again, unless it cannot connect.
    #[serde(with = "humantime_serde")]
    pub refresh_after: Duration,
    /// Gateways in an answer when the client asks for no number: a first choice and others to race or fall back to.
    pub gateways_default: usize,
    /// Connections at once.
    pub connections_max: usize,
}

impl Default for LbsConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7000)),
            refresh_interval: Duration::from_secs(1),
            registry_timeout: Duration::from_secs(2),
            registry_loss_grace: Duration::from_secs(10),
            refresh_after: Duration::from_secs(300),
            gateways_default: 4,
            connections_max: 4_096,
        }
    }
}

impl LbsConfig {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// With the first value that cannot work.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let (hour, milliseconds) = (Duration::from_secs(3_600), Duration::from_millis);
        // Read more often than this it would be nothing but reading.
        OutOfBounds::unless_lasting(
            "lbs.refresh_interval",
            self.refresh_interval,
            milliseconds(50)..=hour,
        )?;
        OutOfBounds::unless_lasting(
            "lbs.registry_timeout",
            self.registry_timeout,
            milliseconds(50)..=hour,
        )?;
        // Gateways announce themselves within seconds; who has not after an hour is gone.
        OutOfBounds::unless_lasting(
            "lbs.registry_loss_grace",
            self.registry_loss_grace,
            Duration::ZERO..=hour,
        )?;
        OutOfBounds::unless_lasting(
            "lbs.refresh_after",
            self.refresh_after,
            Duration::from_secs(1)..=24 * hour,
        )?;
        OutOfBounds::unless_within(
            "lbs.gateways_default",
            self.gateways_default,
            1..=GATEWAYS_LIMIT_MAX,
        )?;
        OutOfBounds::unless_within("lbs.connections_max", self.connections_max, 1..=1_000_000)
    }

    /// A request is one line and a few headers, and has no body; an answer takes microseconds.
    pub(crate) fn http_limits(&self) -> HttpLimits {
        HttpLimits {
            connections_max: self.connections_max,
            connections_per_address_max: (self.connections_max / 4).max(1),
            head_len_max: 8 * 1_024,
            headers_max: 48,
            body_len_max: 1_024,
            head_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
            connection_lifetime: Duration::from_secs(60),
            close_grace: Duration::from_secs(2),
            refuse: crate::server::over_bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde::Deserialize;
    use whimbrel_host::config::assert_example_complete;

    use super::LbsConfig;

    /// What spoils a configuration, and what is said of it.
    type Case = (fn(&mut LbsConfig), &'static str);

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct File {
        lbs: LbsConfig,
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        assert_eq!(LbsConfig::default().check(), Ok(()));
        let refused = |set: fn(&mut LbsConfig)| {
            let mut config = LbsConfig::default();
            set(&mut config);
            config.check().map_err(|error| error.to_string())
        };
        let cases: &[Case] = &[
            (
                |config| config.refresh_interval = Duration::ZERO,
                "`lbs.refresh_interval` is 0s, expected 50ms to 3600s",
            ),
            (
                |config| config.registry_loss_grace = Duration::from_secs(3_601),
                "`lbs.registry_loss_grace` is 3601s, expected 0s to 3600s",
            ),
            // An answer has no more.
            (
                |config| config.gateways_default = 17,
                "`lbs.gateways_default` is 17, expected 1 to 16",
            ),
        ];
        for (set, said) in cases {
            assert_eq!(refused(*set), Err((*said).to_owned()));
        }
    }

    #[test]
    fn the_durations_are_written_as_people_write_them() {
        assert_example_complete::<File>(
            "[lbs]\nlisten = \"0.0.0.0:7000\"\nrefresh_interval = \"1s\"\nregistry_timeout = \"2s\"\n\
             registry_loss_grace = \"10s\"\nrefresh_after = \"5m\"\ngateways_default = 4\nconnections_max = 4096\n",
        );
    }
}
