//! Nonsense over HTTP: to the LBS, which anybody may ask, and to the HTTP API.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use anyhow::Context as _;
use whimbrel_app_service::auth::{TokenRole, mint};
use whimbrel_protocol::ids::Uid;

use crate::door::now_ms;
use crate::peer::REACTS_WITHIN;
use crate::scene::Scene;
use crate::table::{Gets, Row};

const REPEATS: u32 = 200;
/// Over every bound of a head or body.
const HUGE: usize = 400 * 1024;

pub(crate) const ROWS: &[Row<Scene>] = &[
    Row {
        name: "HTTP: random bytes to the LBS",
        attack: |scene| status(&scene.lbs, &rand::random::<[u8; 32]>().map(|byte| byte | 0x80)),
        gets: Gets::Status(400),
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "HTTP: an app key that is none, to the LBS",
        attack: |scene| get(&scene.lbs, "/v1/gateways?app_key=%00%ff../", ""),
        gets: Gets::Status(400),
        repeats: REPEATS,
        says: &["Errors are `4xx`/`503` with `{\"error\":{\"code\":…,\"message\":…}}`"],
    },
    Row {
        name: "HTTP: a head without end, to the LBS",
        attack: |scene| {
            let mut request = b"GET /v1/gateways?app_key=demo HTTP/1.1\r\nx: ".to_vec();
            request.resize(HUGE, b'y');
            status(&scene.lbs, &request)
        },
        gets: Gets::Status(431),
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "HTTP: the HTTP API without a token",
        attack: |scene| get(&scene.api, "/v1/users/alice", ""),
        gets: Gets::Status(401),
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "HTTP: the HTTP API with a user's token",
        attack: |scene| {
            let authorization = format!("authorization: Bearer {}\r\n", scene.door.token("mallory")?);
            get(&scene.api, "/v1/users/alice", &authorization)
        },
        gets: Gets::Status(401),
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "HTTP: a body that is no JSON, to the HTTP API",
        attack: |scene| post(scene, b"{\"sender\": \"ali"),
        gets: Gets::Status(400),
        repeats: REPEATS,
        says: &[],
    },
    Row {
        name: "HTTP: a body over its bound, to the HTTP API",
        attack: |scene| post(scene, &vec![b' '; HUGE]),
        gets: Gets::Status(413),
        repeats: REPEATS,
        says: &[],
    },
];

fn get(base: &str, path: &str, headers: &str) -> anyhow::Result<Gets> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    status(base, request.as_bytes())
}

fn post(scene: &Scene, body: &[u8]) -> anyhow::Result<Gets> {
    let server = Uid::new("tests")?;
    let token = mint(
        &scene.door.secret,
        &scene.door.app,
        &server,
        TokenRole::Server,
        now_ms(),
        60,
    )?;
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    status(&scene.api, &[head.as_bytes(), body].concat())
}

/// The status that these bytes get. More may come behind it, or the end: the bytes need not have been read whole.
fn status(base: &str, request: &[u8]) -> anyhow::Result<Gets> {
    let address = base.strip_prefix("http://").context("a base URL")?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(REACTS_WITHIN))?;
    stream.set_write_timeout(Some(REACTS_WITHIN))?;
    // The server may have answered and closed before all is written.
    let _ = stream.write_all(request);
    let mut line = [0; 12];
    stream.read_exact(&mut line).context("no status line")?;
    let line = std::str::from_utf8(&line)?;
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..));
    Ok(Gets::Status(status.context("not HTTP/1")?.parse()?))
}
