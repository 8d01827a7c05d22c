//! The network that a virtual Panda has where its machine is QEMU: QEMU's own user network, the same for every
//! board, each in one of its own. The twin forwards a port of the host's loopback to the agent's; the daemon tells
//! the board these addresses. Source: QEMU's documentation, "Using the user mode network stack".

use std::net::Ipv4Addr;

/// The board.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The length of its network's prefix.
pub const PREFIX: u8 = 24;
/// The gateway; connections to it go to the host's loopback.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The name server.
pub const NAMES: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// Where the agent listens on the board.
pub const LINK_PORT: u16 = 8222;
