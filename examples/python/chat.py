"""Chat in a terminal: `python chat.py --uid alice --to bob`, with `whimbrel standalone` running.

Lines go out as messages; what others send is printed. `--group NAME --with bob carol` makes a group, `--conversation`
goes on with one.
"""

import argparse
import asyncio
import json
import logging
import sys
import threading
from pathlib import Path

import demo_token
from whimbrel_client import Client, WhimbrelError, conversation_text, parse_conversation


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uid", required=True, help="who you are")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="UID", help="chat with this user")
    where.add_argument("--group", metavar="NAME", help="make a group")
    where.add_argument("--conversation", metavar="ID", help="go on with this conversation")
    parser.add_argument(
        "--with", dest="members", metavar="UID", nargs="*", default=[], help="the group's other members"
    )
    parser.add_argument(
        "--ready-file",
        type=Path,
        default=Path("whimbrel-data/ready.json"),
        help="the file in which `whimbrel standalone` says where it listens (default: %(default)s)",
    )
    parser.add_argument("--verbose", action="store_true", help="say what the connection does")
    return parser.parse_args()


def stdin_lines() -> asyncio.Queue[str | None]:
    """Lines typed, then None. A thread reads them, as files cannot be awaited."""
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(lines.put_nowait, line.rstrip("\n"))
        loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    return lines


async def show(client: Client, conversation: bytes) -> None:
    async for of, entry in client.entries():
        if of != conversation:
            continue
        if entry.HasField("message") and entry.sender_uid != client.uid:
            print(f"{entry.sender_uid}: {entry.message.text.text}", flush=True)
        elif entry.HasField("recalled_by_uid"):
            print(f"* {entry.recalled_by_uid} took message {entry.seq} back", flush=True)
        elif entry.HasField("change"):
            print(f"* {entry.sender_uid} changed the group", flush=True)
        if entry.seq > 0 and entry.sender_uid != client.uid:
            await client.mark_read(conversation, entry.seq)


async def chat(options: argparse.Namespace) -> None:
    ready = json.loads(options.ready_file.read_text())
    # In a product the customer's server does this, and the secret never leaves it.
    secret = Path(ready["app_secret_file"]).read_bytes().strip()
    client = Client(
        lbs=[ready["lbs"]],
        root_keys=[ready["root_key"]],
        app_key=ready["app_key"],
        uid=options.uid,
        token=lambda: demo_token.sign(secret, ready["app_key"], options.uid),
    )
    async with client:
        if options.to:
            conversation = await client.open_direct(options.to)
        elif options.group:
            conversation = await client.create_group(options.group, options.members)
        else:
            conversation = parse_conversation(options.conversation)
        print(f"* conversation {conversation_text(conversation)}; an empty line ends it", file=sys.stderr)
        showing = asyncio.create_task(show(client, conversation))
        lines = stdin_lines()
        while line := await lines.get():
            await client.send(conversation, line)
        showing.cancel()


def main() -> int:
    options = arguments()
    logging.basicConfig(level=logging.INFO if options.verbose else logging.ERROR, format="* %(message)s")
    try:
        asyncio.run(chat(options))
    except KeyboardInterrupt:
        pass
    except (WhimbrelError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except FileNotFoundError as error:
        print(f"error: {error}: start `whimbrel standalone` first, or name its --ready-file", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
