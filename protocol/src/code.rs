//! The numeric codes of answers, and what a client does about each.

use crate::method::numbered;

numbered! {
    /// Why a login or a request was not carried out.
    Code {
        /// The frame or message does not parse.
        Malformed = 100,
        /// No such method.
        UnknownMethod = 101,
        /// A field is out of its bounds.
        InvalidArgument = 102,
        /// Larger than allowed.
        TooLarge = 103,
        /// More unanswered requests than the login allows.
        TooManyRequests = 104,
        /// The token is not signed by a live secret of the app, or is not a token.
        TokenInvalid = 200,
        /// The token's time is over.
        TokenExpired = 201,
        /// The token is of another app or user than the login claims.
        TokenMismatch = 202,
        /// No such app here.
        UnknownApp = 203,
        /// The user may not log in.
        UserDisabled = 204,
        /// A newer login of the same device is there.
        SupersededLogin = 205,
        /// No such user.
        UnknownUser = 300,
        /// No such conversation, or not the asker's.
        UnknownConversation = 301,
        /// The asker is not a member (any more).
        NotMember = 302,
        /// The asker's role does not allow it.
        NotAllowed = 303,
        /// The group has as many members as it may.
        GroupFull = 304,
        /// No such entry, or not visible to the asker.
        UnknownEntry = 305,
        /// The operation id is older than the horizon, or from the future.
        OperationExpired = 306,
        /// The operation id was used for something else.
        OperationMismatch = 307,
        /// The session is in as many rooms as it may be.
        TooManyRooms = 308,
        /// The room has as many members as it may have.
        RoomFull = 309,
        /// Nobody to serve it now.
        Unavailable = 400,
        /// Too much at once.
        Overloaded = 401,
        /// Not done within its deadline; whether it was, a retry with the same id tells.
        DeadlineExceeded = 402,
        /// The store takes no writes now.
        StoreReadOnly = 403,
        /// A fault of the server.
        Internal = 500,
    }
}

/// What the client does about a code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// The same request fails the same way.
    Never,
    /// The same request, with the same operation id, after a pause.
    Later,
    /// After a new token.
    NewToken,
}

impl Code {
    /// What the client does about it.
    #[must_use]
    pub const fn retry(self) -> Retry {
        match self {
            Self::TokenInvalid | Self::TokenExpired | Self::TokenMismatch => Retry::NewToken,
            Self::TooManyRequests
            | Self::Unavailable
            | Self::Overloaded
            | Self::DeadlineExceeded
            | Self::StoreReadOnly
            | Self::Internal => Retry::Later,
            _ => Retry::Never,
        }
    }
}
