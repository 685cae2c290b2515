//! A name server with the records that a test gives it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, rdata::TXT},
};
use tokio::{net::UdpSocket, task::JoinHandle};

/// Longer than any query.
const DATAGRAM_BYTES: usize = 4096;
const TTL_SECONDS: u32 = 60;

/// Answers queries for TXT records over UDP until it is dropped. It runs on the runtime that
/// started it.
#[derive(Debug)]
pub struct NameServer {
    addr: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Zone {
    texts: HashMap<String, Vec<String>>,
    is_failing: bool,
}

impl NameServer {
    /// Listens on a free port of 127.0.0.1, without any records.
    pub async fn start() -> std::io::Result<Self> {
        let socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let (addr, zone) = (socket.local_addr()?, Arc::<Mutex<Zone>>::default());
        let serving = tokio::spawn(serve(socket, Arc::clone(&zone)));
        Ok(Self { addr, zone, serving })
    }

    /// Address of the server.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sets the TXT records of `name`. Without any, the name does not exist.
    pub fn set(&self, name: &str, texts: &[&str]) {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        self.zone().texts.insert(name.to_lowercase(), texts);
    }

    /// Answers every query with a failure (SERVFAIL), or correctly again.
    pub fn fail(&self, is_failing: bool) {
        self.zone().is_failing = is_failing;
    }

    fn zone(&self) -> std::sync::MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut datagram = vec![0; DATAGRAM_BYTES];
    while let Ok((length, client)) = socket.recv_from(&mut datagram).await {
        let Ok(question) = Message::from_vec(&datagram[..length]) else { continue };
        let answer =
            answer(question, &zone.lock().unwrap_or_else(PoisonError::into_inner)).to_vec();
        if let Ok(answer) = answer
            && socket.send_to(&answer, client).await.is_err()
        {
            return;
        }
    }
}

fn answer(question: Message, zone: &Zone) -> Message {
    let mut answer = question.into_response();
    answer.metadata.authoritative = true;
    let Some(name) = answer.queries.first().map(|query| query.name().clone()) else {
        return answer;
    };
    let texts = zone
        .texts
        .get(name.to_ascii().to_lowercase().trim_end_matches('.'))
        .filter(|texts| !texts.is_empty());
    answer.metadata.response_code = match texts {
        _ if zone.is_failing => ResponseCode::ServFail,
        None => ResponseCode::NXDomain,
        Some(_) => ResponseCode::NoError,
    };
    for text in texts.into_iter().flatten().filter(|_| !zone.is_failing) {
        // Long texts consist of parts of at most 255 bytes (RFC 1035 §3.3.14).
        let (head, tail) = text.split_at(text.len() / 2);
        let data = RData::TXT(TXT::new(vec![head.to_owned(), tail.to_owned()]));
        answer.add_answer(Record::from_rdata(name.clone(), TTL_SECONDS, data));
    }
    answer
}
