//! What the parts say to one another.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::{Line, Member, Proxy, Role, Shape};

const SHAPE: Shape = Shape {
    lbs: 2,
    gateways: 3,
    routers: 2,
    service_nodes: 4,
};
/// Whatever takes longer does not come.
const SOON: Duration = Duration::from_millis(200);

#[test]
fn every_role_has_nodes_in_both_zones() {
    for zone in SHAPE.zones() {
        for role in Role::ALL {
            let mut members = SHAPE.members_of(role);
            assert!(members.any(|member| member.zone() == zone), "{role} in {zone}");
        }
    }
    let gateway = Member {
        role: Role::Gateway,
        nth: 1,
    };
    assert_eq!(
        (gateway.to_string().as_str(), gateway.zone()),
        ("gateway-2", "west")
    );
    assert_eq!(SHAPE.members().len(), 11);
}

/// A server that sends everything back.
fn echo() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 16];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    stream.write_all(&bytes[..count]).unwrap();
                }
            });
        }
    });
    address
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn says_back(stream: &mut TcpStream, word: &[u8; 4]) {
    stream.write_all(word).unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, word);
}

#[test]
fn a_line_that_is_cut_ends_connections_and_takes_none_until_it_is_whole() {
    let runtime = Runtime::new().unwrap();
    let proxy = Proxy::listen(runtime.handle(), echo()).unwrap();
    let mut before = connect(&proxy);
    says_back(&mut before, b"one.");
    proxy.set(Line::Cut);
    let ended = |stream: &mut TcpStream| matches!(stream.read(&mut [0]), Ok(0) | Err(_));
    assert!(ended(&mut before));
    assert!(ended(&mut connect(&proxy)));
    proxy.set(Line::Whole);
    says_back(&mut connect(&proxy), b"two.");
    assert!(ended(&mut before), "what was cut stays so");
}

#[test]
fn a_frozen_line_tells_nobody_and_gives_all_of_it_later() {
    let runtime = Runtime::new().unwrap();
    let proxy = Proxy::listen(runtime.handle(), echo()).unwrap();
    let mut stream = connect(&proxy);
    says_back(&mut stream, b"one.");
    proxy.set(Line::Frozen);
    stream.write_all(b"two.").unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let error = stream.read(&mut [0; 4]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    proxy.set(Line::Whole);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"two.");
}

#[test]
fn a_slow_line_holds_up_either_way() {
    let runtime = Runtime::new().unwrap();
    let proxy = Proxy::listen(runtime.handle(), echo()).unwrap();
    let mut stream = connect(&proxy);
    proxy.set(Line::Slow(SOON));
    let began = std::time::Instant::now();
    says_back(&mut stream, b"one.");
    assert!(began.elapsed() >= 2 * SOON);
}
