//! Whose session it is: the login's claims, parsed once and kept small.

use std::num::NonZeroU32;

use prost::Message as _;
use whimbrel_protocol::bucket::user_bucket;
use whimbrel_protocol::client::Login;
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, DeviceId, IdError, Uid};

/// Bytes of the platform's name that are kept; it only informs.
const PLATFORM_LEN_MAX: usize = 32;

/// Who a session belongs to. All texts share one allocation: an idle session keeps one, and nobody needs more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    texts: Box<str>,
    app_end: u8,
    uid_end: u8,
    device_end: u8,
    /// 0 until the user is known to exist.
    pub(crate) user_id: u64,
    pub(crate) login_epoch: u64,
}

/// A login's claims are not ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimError {
    /// Not a Login message.
    #[error("the login does not parse: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// An id out of its bounds.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl ClaimError {
    /// What the client is told.
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::Malformed,
            Self::Id(_) => Code::InvalidArgument,
        }
    }
}

/// What a login says, before anybody has judged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Whose login it would be.
    pub(crate) identity: Identity,
    /// Where that user lives in this gateway.
    pub(crate) bucket: u32,
    /// The largest payload the client takes; 0 is the protocol's bound.
    pub(crate) frame_payload_max: u32,
}

impl Claim {
    /// What `login` claims, in a gateway of `buckets` user buckets.
    ///
    /// # Errors
    /// When the bytes are no login, or an id in it is none.
    pub(crate) fn parse(login: &[u8], buckets: NonZeroU32) -> Result<Self, ClaimError> {
        let login = Login::decode(login)?;
        let app = AppKey::new(&login.app_key)?;
        let uid = Uid::new(&login.uid)?;
        let device = DeviceId::new(&login.device_id)?;
        Ok(Self {
            identity: Identity::new(&app, &uid, &device, &login.platform, login.login_epoch),
            bucket: user_bucket(&app, &uid, buckets),
            frame_payload_max: login.frame_payload_max,
        })
    }
}

impl Identity {
    fn new(app: &AppKey, uid: &Uid, device: &DeviceId, platform: &str, login_epoch: u64) -> Self {
        let platform = &platform[..platform.floor_char_boundary(PLATFORM_LEN_MAX)];
        let (app, uid, device) = (app.as_str(), uid.as_str(), device.as_str());
        let mut texts = String::with_capacity(app.len() + uid.len() + device.len() + platform.len());
        let mut append = |text: &str| {
            texts.push_str(text);
            u8::try_from(texts.len()).expect("32 + 64 + 64 + 32 bytes fit a byte's count")
        };
        let (app_end, uid_end, device_end) = (append(app), append(uid), append(device));
        append(platform);
        Self {
            texts: texts.into_boxed_str(),
            app_end,
            uid_end,
            device_end,
            user_id: 0,
            login_epoch,
        }
    }

    fn text(&self, from: u8, to: u8) -> &str {
        &self.texts[usize::from(from)..usize::from(to)]
    }

    /// The app's key.
    pub(crate) fn app(&self) -> &str {
        self.text(0, self.app_end)
    }

    /// Whether this is the user of that id, as far as is known: one who logs in for the first time has none until the
    /// session is opened.
    pub(crate) fn may_be(&self, user_id: u64) -> bool {
        self.user_id == 0 || self.user_id == user_id
    }

    /// The user, as the customer names them.
    pub(crate) fn uid(&self) -> &str {
        self.text(self.app_end, self.uid_end)
    }

    /// The device.
    pub(crate) fn device(&self) -> &str {
        self.text(self.uid_end, self.device_end)
    }

    /// What the device runs.
    pub(crate) fn platform(&self) -> &str {
        &self.texts[usize::from(self.device_end)..]
    }

    /// A login with another token for the same claims: what REAUTH asks to be judged.
    pub(crate) fn login_with(&self, token: String) -> Login {
        Login {
            app_key: self.app().to_owned(),
            uid: self.uid().to_owned(),
            token,
            device_id: self.device().to_owned(),
            login_epoch: self.login_epoch,
            platform: self.platform().to_owned(),
            ..Login::default()
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn login() -> Login {
        Login {
            app_key: "demo".into(),
            uid: "alice".into(),
            device_id: "phone".into(),
            platform: "安卓".repeat(20),
            login_epoch: 7,
            ..Login::default()
        }
    }

    #[test]
    fn claims_come_back_whole_and_the_platform_is_cut_between_characters() {
        let Claim { identity, .. } = Claim::parse(&login().encode_to_vec(), NonZeroU32::MIN).unwrap();
        assert_eq!(
            (identity.app(), identity.uid(), identity.device()),
            ("demo", "alice", "phone")
        );
        assert_eq!(identity.platform(), "安卓".repeat(5));
        assert_eq!(identity.login_epoch, 7);
    }

    #[test]
    fn claims_that_are_no_ids_are_refused_by_name() {
        let too_long = Login {
            uid: "x".repeat(65),
            ..login()
        };
        let error = Claim::parse(&too_long.encode_to_vec(), NonZeroU32::MIN).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.to_string().contains("uid"), "{error}");
        assert_eq!(
            Claim::parse(&[0xff; 9], NonZeroU32::MIN).unwrap_err().code(),
            Code::Malformed
        );
    }
}
