//! A wire to a server that counts what goes over it, both ways, heads and all.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// Ends with the process.
pub struct Wire {
    address: SocketAddr,
    carried: Arc<AtomicU64>,
}

impl Wire {
    pub fn to(server: SocketAddr) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let carried = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&carried);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                let clones = (client.try_clone(), server.try_clone());
                let (Ok(back), Ok(forth)) = clones else {
                    continue;
                };
                let counters = (Arc::clone(&counter), Arc::clone(&counter));
                thread::spawn(move || carry(client, forth, &counters.0));
                thread::spawn(move || carry(server, back, &counters.1));
            }
        });
        Wire { address, carried }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes since the beginning.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
        count.fetch_add(len as u64, Ordering::Relaxed);
    }
    to.shutdown(Shutdown::Write).ok();
}
