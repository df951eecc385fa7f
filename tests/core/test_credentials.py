"""Files that systemd hands to a service: what is said where one isn't there."""

from __future__ import annotations

from pathlib import Path

import pytest

from warmd.config.certificate import CertificateError, tls_context
from warmd.config.credentials import file_named


def test_a_credential_that_nobody_hands_over_is_told_with_its_remedy(tmp_path: Path) -> None:
    file = file_named("no-such.pem", {})
    assert file == Path("/run/credentials/warmd.service/no-such.pem")
    with pytest.raises(CertificateError) as told:
        tls_context(file, None)
    assert "systemd hands no credential no-such.pem to this process" in str(told.value)
    assert "`systemctl edit warmd.service`, write LoadCredential=no-such.pem:" in str(told.value)
    assert "permission" not in str(told.value)
    with pytest.raises(CertificateError, match="there is no such file"):
        tls_context(tmp_path / "no-such.pem", None)
