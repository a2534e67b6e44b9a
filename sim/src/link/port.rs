//! Where a relay listens. Its one law: while it is shut, a client that dials it is refused by the network itself, and what was
//! accepted before goes on.

#[cfg(not(madsim))]
use std::net::Ipv4Addr;
use std::net::SocketAddr;
#[cfg(madsim)]
use std::time::Duration;

#[cfg(madsim)]
use madsim::net::NetSim;
#[cfg(madsim)]
use madsim::net::ipvs::{Scheduler, ServiceAddr};
#[cfg(not(madsim))]
use tokio::net::UdpSocket;
use tokio::net::{TcpListener, TcpStream};

/// How often it is looked whether somebody has dialled in vain.
#[cfg(madsim)]
const LOOK: Duration = Duration::from_millis(5);

/// Ports on which nobody listens: relays listen on those of their services, and dial from the lowest that are free.
#[cfg(madsim)]
const CLOSED: std::ops::RangeInclusive<u16> = 65001..=65064;

/// A relay's port, with connections yet to be accepted.
///
/// In the simulation a port stays bound for as long as a connection lives that was accepted there, so that dials of one
/// that is shut are led to ports which are closed: another one each time, so that it shows how many there were.
#[cfg(madsim)]
pub(super) struct Port {
    listener: TcpListener,
    addr: SocketAddr,
    /// The closed port to which the next dial will be led if nobody dials before.
    next: u16,
}

#[cfg(madsim)]
impl Port {
    pub(super) fn new(listener: TcpListener) -> Port {
        let addr = listener.local_addr().expect("it is bound");
        Port { listener, addr, next: *CLOSED.start() }
    }

    pub(super) async fn accept(&self) -> std::io::Result<TcpStream> {
        self.listener.accept().await.map(|(near, _)| near)
    }

    fn service(&self) -> ServiceAddr {
        ServiceAddr::Tcp(self.addr.to_string())
    }

    /// From now on nobody is let in.
    pub(super) fn shut(&mut self) {
        let net = NetSim::current();
        net.global_ipvs().add_service(self.service(), Scheduler::RoundRobin);
        for port in CLOSED {
            net.global_ipvs().add_server(self.service(), &SocketAddr::new(self.addr.ip(), port).to_string());
        }
        self.next = *CLOSED.start();
    }

    /// While it is shut: somebody has dialled, and was refused.
    pub(super) async fn dialled(&mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let led = NetSim::current().global_ipvs().get_server(self.service());
            let led: Option<SocketAddr> = led.and_then(|server| server.parse().ok());
            let port = led.expect("it is shut").port();
            let before = std::mem::replace(&mut self.next, after(port));
            if port != before {
                return;
            }
        }
    }

    /// New connections are let in again.
    pub(super) async fn open(&mut self) {
        NetSim::current().global_ipvs().del_service(self.service());
    }
}

#[cfg(madsim)]
fn after(port: u16) -> u16 {
    if port == *CLOSED.end() { *CLOSED.start() } else { port + 1 }
}

/// A relay's port, with connections yet to be accepted.
///
/// Of dials that the system refuses nobody is told, so that one who may (it takes CAP_NET_RAW, as root has) looks at the
/// packets. To one who may not, nobody seems to feel them.
#[cfg(not(madsim))]
pub(super) struct Port {
    /// `None` while it is shut.
    listener: Option<TcpListener>,
    addr: SocketAddr,
    /// Hears what is sent to the address while it is shut.
    packets: Option<UdpSocket>,
}

#[cfg(not(madsim))]
impl Port {
    pub(super) fn new(listener: TcpListener) -> Port {
        let addr = listener.local_addr().expect("it is bound");
        Port { listener: Some(listener), addr, packets: None }
    }

    pub(super) async fn accept(&self) -> std::io::Result<TcpStream> {
        match &self.listener {
            Some(listener) => listener.accept().await.map(|(near, _)| near),
            None => std::future::pending().await,
        }
    }

    /// From now on nobody is let in.
    pub(super) fn shut(&mut self) {
        self.packets = packets(self.addr).and_then(|packets| UdpSocket::from_std(packets).ok());
        self.listener = None;
    }

    /// While it is shut: somebody has dialled, and was refused.
    pub(super) async fn dialled(&mut self) {
        let Some(packets) = &self.packets else { return std::future::pending().await };
        let mut packet = [0; 128];
        loop {
            match packets.recv(&mut packet).await {
                Ok(length) if dials(&packet[..length], self.addr.port()) => return,
                Ok(_) => {}
                Err(_) => return std::future::pending().await,
            }
        }
    }

    /// New connections are let in again.
    pub(super) async fn open(&mut self) {
        self.packets = None;
        self.listener = Some(TcpListener::bind(self.addr).await.expect("its own address, which nobody else takes"));
    }
}

/// A socket that hears the TCP packets to an address.
#[cfg(not(madsim))]
fn packets(addr: SocketAddr) -> Option<std::net::UdpSocket> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    let SocketAddr::V4(addr) = addr else { return None };
    let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: it makes a descriptor and touches no memory.
    let made = unsafe { libc::socket(libc::AF_INET, kind, libc::IPPROTO_TCP) };
    if made == -1 {
        return None;
    }
    // SAFETY: it is open, and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(made) };
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: Ipv4Addr::to_bits(*addr.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&to)).expect("a few bytes");
    // SAFETY: `to` is an address of that length, and lives through the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const to).cast(), length) };
    // What it has in common with a socket of UDP: each read is a packet.
    (bound == 0).then(|| socket.into())
}

/// Whether a packet, IP's header first, asks for a connection to this port.
#[cfg(not(madsim))]
fn dials(packet: &[u8], port: u16) -> bool {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let header = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    let Some(tcp) = packet.get(header..).filter(|tcp| tcp.len() >= 14) else { return false };
    tcp[2..4] == port.to_be_bytes() && tcp[13] & (SYN | ACK) == SYN
}
