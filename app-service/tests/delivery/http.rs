//! The HTTP API over a real loopback socket.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use whimbrel_app_service::auth::{TokenRole, mint};
use whimbrel_app_service::http::{Api, ApiParts};
use whimbrel_host::http::{HttpLimits, serve};
use whimbrel_protocol::ids::Uid;
use whimbrel_registry::Registry;
use whimbrel_store::Store;

use crate::world::{Live, START_MS, World, app, apps, secret};

pub(crate) fn token(role: TokenRole) -> String {
    mint(
        &secret(),
        &app(),
        &Uid::new("server-1").unwrap(),
        role,
        START_MS,
        3600,
    )
    .unwrap()
}

/// One request on a connection of its own; the status and the JSON that came back.
pub(crate) async fn http(to: SocketAddr, method: &str, path: &str, token: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

struct Server {
    address: SocketAddr,
    token: String,
    _live: Live,
}

impl Server {
    async fn start(world: &World) -> Self {
        let live = world.start_alone().await;
        let (env, _) = world.env();
        let routes = Api::routes(ApiParts {
            log: live.node.log().clone(),
            service: live.node.service().clone(),
            store: Arc::clone(&world.store) as Arc<dyn Store>,
            registry: Arc::clone(&world.registry) as Arc<dyn Registry>,
            apps: apps(),
            env,
            body_len_max: 64 * 1024,
            timeout: Duration::from_secs(5),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(
            listener,
            routes,
            HttpLimits::default(),
            std::future::pending(),
        ));
        Self {
            address,
            token: token(TokenRole::Server),
            _live: live,
        }
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        http(self.address, "POST", path, &self.token, &body.to_string()).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        http(self.address, "GET", path, &self.token, "").await
    }
}

#[tokio::test]
async fn a_server_makes_users_and_groups_and_sends_and_reads() {
    let world = World::new(1);
    let server = Server::start(&world).await;
    for (status, created) in [(201, true), (200, false)] {
        let answer = server.post("/v1/users", json!({"uid": "ann"})).await;
        assert_eq!(answer, (status, json!({"uid": "ann", "created": created})));
    }
    let (status, user) = server.get("/v1/users/ann").await;
    assert_eq!((status, &user["devices_online"]), (200, &json!(0)));

    let id = "01997b2d-7c00-7abc-8def-0123456789ab";
    let sent = json!({"sender": "ann", "to": "bob", "text": "hello"});
    let (status, first) = server.post("/v1/messages", sent).await;
    assert_eq!((status, &first["seq"]), (200, &json!(1)), "{first}");
    let chat = first["conversation"].as_str().unwrap();
    let custom = json!({"sender": "ann", "conversation": chat, "custom": {"type": "poll", "data": "AAEC"}});
    assert_eq!(server.post("/v1/messages", custom).await.1["seq"], 2);
    let stale = json!({"sender": "ann", "conversation": chat, "text": "x", "operation_id": id});
    let (status, refused) = server.post("/v1/messages", stale).await;
    assert_eq!(
        (status, &refused["error"]["name"]),
        (400, &json!("OperationExpired"))
    );

    let (status, page) = server
        .get(&format!("/v1/conversations/{chat}/messages?as=bob&limit=10"))
        .await;
    assert_eq!(
        (status, &page["head_seq"], &page["more"]),
        (200, &json!(2), &json!(false))
    );
    assert_eq!(
        (&page["entries"][0]["text"], &page["entries"][1]["custom"]["data"]),
        (&json!("hello"), &json!("AAEC"))
    );

    let (status, group) = server
        .post(
            "/v1/groups",
            json!({"owner": "ann", "name": "team", "members": ["bob"]}),
        )
        .await;
    assert_eq!(status, 201, "{group}");
    let group = group["conversation"].as_str().unwrap();
    let members = format!("/v1/groups/{group}/members");
    assert_eq!(server.post(&members, json!({"add": ["cleo"]})).await.1["seq"], 2);
    assert_eq!(
        server.post(&members, json!({"remove": ["bob"]})).await.1["seq"],
        3
    );
    let (_, info) = server.get(&format!("/v1/groups/{group}")).await;
    assert_eq!(
        (&info["member_count"], &info["owner"], &info["name"]),
        (&json!(2), &json!("ann"), &json!("team"))
    );
    let (_, page) = server.get(&format!("/v1/conversations/{group}/messages")).await;
    assert_eq!(
        page["entries"][1]["change"],
        json!({"kind": "invited", "uids": ["cleo"], "name": ""})
    );
}

#[tokio::test]
async fn of_servers_that_make_one_user_at_once_one_is_told_so() {
    let world = World::new(6);
    let server = Server::start(&world).await;
    let asked = (0..16).map(|_| server.post("/v1/users", json!({"uid": "ann"})));
    let mut answers = futures::future::join_all(asked).await;
    answers.sort_by_key(|(status, _)| std::cmp::Reverse(*status));
    assert_eq!(answers[0], (201, json!({"uid": "ann", "created": true})));
    for answer in &answers[1..] {
        assert_eq!(answer, &(200, json!({"uid": "ann", "created": false})));
    }
}

#[tokio::test]
async fn the_same_operation_id_sends_once() {
    let world = World::new(2);
    let server = Server::start(&world).await;
    server.post("/v1/users", json!({"uid": "ann"})).await;
    let first = server
        .post(
            "/v1/messages",
            json!({"sender": "ann", "to": "bob", "text": "hi"}),
        )
        .await
        .1;
    let id = first["operation_id"].as_str().unwrap();
    let again = server
        .post(
            "/v1/messages",
            json!({"sender": "ann", "to": "bob", "text": "hi", "operation_id": id}),
        )
        .await;
    assert_eq!(again, (200, first));
}

#[tokio::test]
async fn bad_requests_name_the_field_and_the_cure() {
    let world = World::new(3);
    let server = Server::start(&world).await;
    server.post("/v1/users", json!({"uid": "ann"})).await;
    let group = server
        .post("/v1/groups", json!({"owner": "ann", "name": "team"}))
        .await
        .1;
    let members = format!("/v1/groups/{}/members", group["conversation"].as_str().unwrap());
    let rows = [
        ("/v1/users", json!({"uid": ""}), 400, "uid"),
        ("/v1/users", json!({"uid": "x".repeat(65)}), 400, "uid"),
        (
            "/v1/messages",
            json!({"sender": "nobody", "to": "ann", "text": "x"}),
            404,
            "sender",
        ),
        ("/v1/messages", json!({"sender": "ann", "text": "x"}), 400, "to"),
        (
            "/v1/messages",
            json!({"sender": "ann", "to": "ann", "text": "x"}),
            400,
            "to",
        ),
        ("/v1/messages", json!({"sender": "ann", "to": "bob"}), 400, "text"),
        (
            "/v1/messages",
            json!({"sender": "ann", "to": "bob", "custom": {"type": "t", "data": "%"}}),
            400,
            "custom",
        ),
        (
            "/v1/messages",
            json!({"sender": "ann", "conversation": "nope", "text": "x"}),
            400,
            "conversation",
        ),
        (
            "/v1/messages",
            json!({"sender": "ann", "to": "b", "text": "x", "operation_id": "7"}),
            400,
            "operation_id",
        ),
        (
            "/v1/messages",
            json!({"sender": "ann", "to": "bob", "text": ""}),
            400,
            "text",
        ),
        (
            "/v1/messages",
            json!({"sender": "ann", "to": "bob", "text": "x".repeat(25_000)}),
            413,
            "text",
        ),
        (
            "/v1/messages",
            json!({"sender": "ann", "to": "bob", "custom": {"type": "", "data": ""}}),
            400,
            "custom",
        ),
        (
            "/v1/messages",
            json!({"sender": "ann", "to": "bob", "text": "x", "push_text": "x".repeat(1_025)}),
            400,
            "push_text",
        ),
        ("/v1/groups", json!({"owner": "ann", "name": ""}), 400, "name"),
        (
            "/v1/groups",
            json!({"owner": "nobody", "name": "x"}),
            404,
            "owner",
        ),
        (&members, json!({}), 400, "add"),
        (&members, json!({"by": "nobody", "add": ["bob"]}), 404, "by"),
    ];
    for (path, body, status, field) in rows {
        let (got, answer) = server.post(path, body.clone()).await;
        assert_eq!(
            (got, &answer["error"]["field"]),
            (status, &json!(field)),
            "{path} {body}: {answer}"
        );
        assert!(
            answer["error"]["message"].as_str().unwrap().len() > 10,
            "{answer}"
        );
    }
    let custom = json!({"sender": "ann", "to": "bob", "custom": ["type", ""]});
    for (body, said) in [(json!([]), "[]"), (custom, "custom")] {
        let (status, answer) = server.post("/v1/messages", body).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert_eq!(status, 422, "{said}: {answer}");
        assert!(message.contains("expected a JSON object"), "{said}: {answer}");
        assert!(!message.contains("struct"), "{said}: {answer}");
    }
    let large = json!({"uid": "x".repeat(70_000)});
    let other = [
        server.post("/v1/users", large).await,
        http(server.address, "POST", "/v1/users", &server.token, "{").await,
        server.post("/v1/users", json!({"uid": "x", "what": 1})).await,
        server.get("/v1/nothing").await,
        server.get("/v1/messages").await,
        server.get("/v1/groups/gaaaaaaaaaaaaaaaaaaaaaaaa").await,
        server.get("/v1/users/nobody").await,
        server.get("/v1/users/%ff").await,
    ];
    let statuses: Vec<u16> = other.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [413, 400, 422, 404, 405, 404, 404, 400]);
    for (_, answer) in other {
        assert!(answer["error"]["message"].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn only_a_servers_token_opens_it() {
    let world = World::new(4);
    let server = Server::start(&world).await;
    for token in ["", "nonsense", &token(TokenRole::User)] {
        let (status, answer) = http(server.address, "GET", "/v1/users/ann", token, "").await;
        assert_eq!(status, 401, "{answer}");
        assert!(answer["error"]["code"].as_u64().unwrap() >= 200);
    }
}

#[tokio::test]
async fn the_description_names_the_methods_that_each_path_knows() {
    let world = World::new(99);
    let server = Server::start(&world).await;
    let (status, document) = http(server.address, "GET", "/openapi.json", "none", "").await;
    assert_eq!(status, 200);
    for (path, described) in document["paths"].as_object().unwrap() {
        let path = path.replace("{uid}", "ann").replace("{conversation}", "x");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let (status, _) = http(server.address, method, &path, "none", "{}").await;
            let is_described = described.get(method.to_ascii_lowercase()).is_some();
            let expected = if is_described { 401 } else { 405 };
            assert_eq!(status, expected, "{method} {path}");
        }
    }
}
