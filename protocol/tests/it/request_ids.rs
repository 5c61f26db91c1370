use whimbrel_protocol::Side;
use whimbrel_protocol::frame::RequestId;
use whimbrel_protocol::request_ids::{RequestIdCheck, RequestIdError, RequestIds};

#[test]
fn clients_count_odd_and_gateways_even() {
    for (side, first) in [(Side::Client, 1), (Side::Server, 2)] {
        let mut ids = RequestIds::new(side);
        let mut check = RequestIdCheck::new(side);
        for step in 0..5 {
            let id = ids.allocate().unwrap();
            assert_eq!(id, RequestId(first + 2 * step));
            check.accept(id).unwrap();
            assert_eq!(check.last(), id);
        }
        let mut other = RequestIdCheck::new(side.other());
        assert_eq!(
            other.accept(RequestId(first)),
            Err(RequestIdError::WrongParity { id: RequestId(first) })
        );
    }
}

#[test]
fn duplicates_and_steps_back_are_refused_but_gaps_are_not() {
    let mut check = RequestIdCheck::new(Side::Client);
    check.accept(RequestId(7)).unwrap();
    for id in [7, 5, 1] {
        let (id, last) = (RequestId(id), RequestId(7));
        assert_eq!(check.accept(id), Err(RequestIdError::NotRising { id, last }));
    }
    check.accept(RequestId(u32::MAX)).unwrap();
}
