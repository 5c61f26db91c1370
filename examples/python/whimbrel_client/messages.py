"""The messages of protocol/proto/client.proto, compiled from the file itself when this module is imported.

Nothing generated is checked in, so nothing here can differ from the .proto.
"""

import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError as DecodeError
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parents[3] / "protocol" / "proto" / "client.proto"


def _compile(proto: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "client.binpb"
        arguments = ["protoc", f"-I{proto.parent}", f"--descriptor_set_out={out}", proto.name]
        if protoc.main(arguments) != 0:
            raise ImportError(f"{proto} does not compile")
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    return message_factory.GetMessages(files, pool=descriptor_pool.DescriptorPool())


_CLASSES = _compile(PROTO)


def _message(name: str) -> Any:
    return _CLASSES[f"whimbrel.client.v1.{name}"]


Login = _message("Login")
LoginAnswer = _message("LoginAnswer")
Response = _message("Response")

Content = _message("Content")
Entry = _message("Entry")
ConversationRow = _message("ConversationRow")
OutgoingMessage = _message("OutgoingMessage")

SyncRequest = _message("SyncRequest")
SyncResponse = _message("SyncResponse")
SendRequest = _message("SendRequest")
SendResponse = _message("SendResponse")
PullRequest = _message("PullRequest")
PullResponse = _message("PullResponse")
PullChangesRequest = _message("PullChangesRequest")
PullChangesResponse = _message("PullChangesResponse")
MarkReadRequest = _message("MarkReadRequest")
MarkReadResponse = _message("MarkReadResponse")
RecallRequest = _message("RecallRequest")
RecallResponse = _message("RecallResponse")

OpenDirectRequest = _message("OpenDirectRequest")
Conversation = _message("Conversation")
CreateGroupRequest = _message("CreateGroupRequest")
GroupChangeResponse = _message("GroupChangeResponse")

MessagesPush = _message("MessagesPush")
NoticePush = _message("NoticePush")
