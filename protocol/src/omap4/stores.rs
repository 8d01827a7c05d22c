//! The persistence inventory of a PandaBoard: every store on it that survives a power cut. Facts:
//! `panda-hardware.md`; what is not known of the board stands here as not known.

use crate::family::Store;

/// All of them.
pub(super) const STORES: &[Store] = &[
    Store {
        store: "SD card (MMC1)",
        state: "empty: no card in any builder's slot",
        closed_by: "the ROM tries USB first for about 3 s, and a host that answers is served; without VBUS on OTG at \
                    power-on it skips USB and would start from a card, so the port gets power before the supply",
        noticed_by: "a board that started from a card shows no boot ROM on its port inside the window: the reset fails \
                     at `rom`. A card that is there while USB boots is not noticed",
    },
    Store {
        store: "flash",
        state: "none fitted",
        closed_by: "the board has no flash to boot from",
        noticed_by: "nothing to notice",
    },
    Store {
        store: "USB scratch disk",
        state: "in use: a build's disk, kept across cuts",
        closed_by: "not in the ROM's boot list (SYS_BOOT 10000101: USB peripheral, then MMC1); each boot opens it under \
                    keys of its own that nobody keeps",
        noticed_by: "by nothing: what is written below the encryption stays, and only a build that reads the raw disk \
                     as root finds it",
    },
    Store {
        store: "Ethernet (smsc95xx) settings",
        state: "not known; the part has no MAC address of its own",
        closed_by: "not in the ROM's boot list; the master gives the MAC address at each boot",
        noticed_by: "a board that does not come up with what it was given does not reach the master: the reset fails at \
                     `handshake`",
    },
    Store {
        store: "Wi-Fi and Bluetooth",
        state: "not known whether the module keeps anything",
        closed_by: "not in the ROM's boot list; disabled in hardware or left without an aerial",
        noticed_by: "by nothing",
    },
    Store {
        store: "one-time fuses of the chip (public ID, MPK hash)",
        state: "public ID and MPK hash were seen all zero on general-purpose parts; whether root can write fuses is not \
                known",
        closed_by: "by nothing that is known here",
        noticed_by: "chip and public ID are compared with the slot's at each reset, as far as the part tells them",
    },
];
