//! The numbers of requests and pushes.

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u32)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)* }

        impl $name {
            /// All of them, ascending.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u32 {
                self as u32
            }

            /// The one with this number.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use numbered;

numbered! {
    /// What a client asks for; the messages are in `client.proto`.
    Method {
        /// `SyncRequest` to `SyncResponse`.
        Sync = 1,
        /// `SendRequest` to `SendResponse`.
        Send = 2,
        /// `PullRequest` to `PullResponse`.
        Pull = 3,
        /// `PullChangesRequest` to `PullChangesResponse`.
        PullChanges = 4,
        /// `MarkReadRequest` to `MarkReadResponse`.
        MarkRead = 5,
        /// `RecallRequest` to `RecallResponse`.
        Recall = 6,
        /// `OpenDirectRequest` to `Conversation`.
        OpenDirect = 16,
        /// `ConversationRequest` to `Conversation`.
        GetConversation = 17,
        /// `ListMembersRequest` to `ListMembersResponse`.
        ListMembers = 18,
        /// `CreateGroupRequest` to `GroupChangeResponse`.
        CreateGroup = 19,
        /// `InviteRequest` to `GroupChangeResponse`.
        Invite = 20,
        /// `RemoveMembersRequest` to `GroupChangeResponse`.
        RemoveMembers = 21,
        /// `LeaveRequest` to `GroupChangeResponse`.
        Leave = 22,
        /// `RenameGroupRequest` to `GroupChangeResponse`.
        RenameGroup = 23,
        /// `SetRoleRequest` to `GroupChangeResponse`.
        SetRole = 24,
        /// `TransferOwnershipRequest` to `GroupChangeResponse`.
        TransferOwnership = 25,
        /// `JoinRoomRequest` to `JoinRoomResponse`.
        JoinRoom = 32,
        /// `LeaveRoomRequest` to `LeaveRoomResponse`.
        LeaveRoom = 33,
        /// `SendRoomRequest` to `SendRoomResponse`.
        SendRoom = 34,
        /// `CountRoomRequest` to `CountRoomResponse`.
        CountRoom = 35,
    }
}

numbered! {
    /// What a server pushes.
    PushMethod {
        /// `MessagesPush`.
        Messages = 1,
        /// `NoticePush`.
        Notice = 2,
        /// `RoomPush`.
        Room = 3,
    }
}
