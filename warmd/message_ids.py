"""What kinds of lines the daemon writes into the journal: `journalctl MESSAGE_ID=...` finds them.

Each is written down once and stays what it is; `systemd/warmd.catalog` explains it
(systemd.journal-fields(7), sd_id128(3)).
"""

from __future__ import annotations

from enum import StrEnum


class MessageId(StrEnum):
    """One kind of line."""

    SERVES = "df253f8a2db44b699cd1265cd9a9dfba"
    STOPPING = "c4eb794c71e445789495a86941022277"
    CANT_START = "451f73778eea4a30aad3cebae668972c"
    CONFIG_REFUSED = "bb3dd3ef14fd4205b3b96c4a6681a290"
    CONFIG_READ = "c58a62c1c329408f9168b4fb53487471"
    LATE = "088d8ad233e942159ae4039e4bc8e921"
    NOT_TAKEN_OVER = "475a84bb79734e13817c3443fb7e701d"
    LEFTOVER_KILLED = "5341e84e8b57482383b9fd92ddad1fad"
    RUNG_CHANGED = "c97c172aebe749a2b45912a5e2865362"
    START_BEGAN = "4db0ce24474744379c9751e567448b9f"
    START_CALLED_OFF = "fbd04cd3eec04cf48f0991455df221f7"
    ENGINE_FAILED = "dafd30444725489682643716f426a85f"
    ENGINE_STUCK = "cfcd0c4c413746d49c973d596e315b4d"
    OPERATION_OVERDUE = "33370160ede04720a8609b5d84a80667"
    SLEEP_MEASURED = "65538ce607454532af520a992cd7bbf7"
    WINDOW_MISSED = "bce0ee60d2e241bd9aec299a384719fc"
    WINDOW_READY = "6781947c8708431784f27cfd1ddd02fc"
    WINDOW_OVER = "a9d2f6f6a833467ba489d19f3ac9f0a2"
    REPLICAS_WANTED = "ef790efc002c45138eeea69b083d9632"
    OVERRIDE_CHANGED = "7e8f35c632b142deb55346123ef6cae2"
    STAGING_FAILED = "18c4a60847914b33ad7fabc0187a8ae1"
    STAGING_EVICTED = "de4e54c504554a43a969ad901241ff1b"
    RESERVATION_EXCEEDED = "4a63baa22efc4a06b98491c35288c2d3"
    MEMORY_KEPT = "ca8f633c5e24471aa8e9a0062d2d0da9"
    CARD_IN_DOUBT = "2f8aaa0d28c04a3ebf5c7f28a70faf05"
    CARD_SEEN_AGAIN = "ce66e85448d949d19d50c7412553b337"
    CARD_QUARANTINED = "2df0413a762b428a87774bd5362629b3"
    CARD_RETURNED = "7905dfed857c4554879ee5aa1f286601"
    OWN_REQUEST_FAILED = "f6698e655047486996aa61dd80588aee"
    OWN_REQUEST_ANSWERED = "20633c65fa5b470a8828652f5feba7c2"
    REQUEST_DONE = "a43e9dff072e43209fa5c33880075f8f"
    REQUEST_REFUSED = "1c2442c77dce461ab20e244641174714"
    REFUSALS_UNTOLD = "dc692b30f57847298b80e744f4e95d41"

    def about(self, **facts: object) -> dict[str, object]:
        """What a log call takes as `extra`: this kind, and facts for fields of the journal.

        `model` is sent as WARMD_MODEL; None is left out.
        """
        return {"message_id": self.value, "warmd": facts}
