//! hickory-server as a peer: its own loops over the socket, and its handler called from the plainest loop there is.

#![allow(clippy::disallowed_types, reason = "nothing depends on order, and a peer is not to be slowed down")]

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    option,
    pin::Pin,
};

use hickory_proto::{
    op::{Metadata, ResponseCode},
    rr::{LowerName, Name, RData, Record, RecordType, rdata::SRV},
    serialize::binary::BinEncoder,
};
use hickory_server::{
    Server,
    net::{runtime::Time, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::{MessageResponse, MessageResponseBuilder},
};

/// Every record that is asked for, found by one look-up: what any handler has to do at least.
struct Handler(HashMap<(LowerName, RecordType), (Record, Option<Record>)>);

impl Handler {
    fn new(names: usize) -> Self {
        let mut records = HashMap::new();
        for at in 0..names {
            let [_, a, b, c] = u32::try_from(at).unwrap().to_be_bytes();
            let name = |text: String| Name::from_ascii(text).unwrap();
            let service = name(format!("s{at}.service.mesh.internal."));
            let target = name(format!("i-{at:012x}.s{at}.service.mesh.internal."));
            let address = RData::A(Ipv4Addr::new(10, a, b, c).into());
            let key = |kind| (LowerName::from(&service), kind);
            let own = Record::from_rdata(service.clone(), 0, address.clone());
            let glue = Record::from_rdata(target.clone(), 0, address);
            let srv = Record::from_rdata(service.clone(), 0, RData::SRV(SRV::new(1, 256, 8080, target)));
            records.insert(key(RecordType::A), (own, None));
            records.insert(key(RecordType::SRV), (srv, Some(glue)));
        }
        Self(records)
    }

    fn answer<'request, 'all>(&'all self, request: &'request Request) -> Answer<'request, 'all> {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        let query = &request.queries.queries()[0];
        let found = self.0.get(&(query.name().clone(), query.query_type()));
        if found.is_none() {
            metadata.response_code = ResponseCode::NXDomain;
        }
        let (answer, glue) = (found.map(|found| &found.0), found.and_then(|found| found.1.as_ref()));
        MessageResponseBuilder::from_message_request(request).build(metadata, answer, None, None, glue)
    }
}

type Answer<'request, 'all> = MessageResponse<'request, 'all, Few<'all>, Few<'all>, Few<'all>, Few<'all>>;
type Few<'all> = option::IntoIter<&'all Record>;

impl RequestHandler for Handler {
    // What the attribute of the trait makes of an `async fn`.
    fn handle_request<'handler, 'request, 'all, R, T>(
        &'handler self,
        request: &'request Request,
        mut handle: R,
    ) -> Pin<Box<dyn Future<Output = ResponseInfo> + Send + 'all>>
    where
        R: ResponseHandler + 'all,
        T: Time + 'all,
        'handler: 'all,
        'request: 'all,
    {
        Box::pin(async move { handle.send_response(self.answer(request)).await.unwrap() })
    }
}

/// `--hickory ADDRESS NAMES`: its own server.
pub(crate) fn serve(address: SocketAddr, names: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut server = Server::new(Handler::new(names));
        server.register_socket(tokio::net::UdpSocket::bind(address).await.unwrap());
        server.block_until_done().await.unwrap();
    });
}

/// `--handler ADDRESS NAMES`: its handler, called for each datagram in turn.
pub(crate) fn call(address: SocketAddr, names: usize) {
    let (handler, socket) = (Handler::new(names), UdpSocket::bind(address).unwrap());
    let mut packet = [0; 1536];
    loop {
        let (length, client) = socket.recv_from(&mut packet).unwrap();
        let request = Request::from_bytes(packet[..length].to_vec(), client, Protocol::Udp).unwrap();
        let mut reply = Vec::with_capacity(512);
        handler.answer(&request).destructive_emit(&mut BinEncoder::new(&mut reply)).unwrap();
        let _ = socket.send_to(&reply, client);
    }
}
