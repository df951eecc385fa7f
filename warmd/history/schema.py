"""The history's tables, version by version, and what of them ages."""

from __future__ import annotations

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE starts (
            id INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            model TEXT NOT NULL,
            replica TEXT NOT NULL,
            from_rung TEXT NOT NULL,
            outcome TEXT NOT NULL CHECK (outcome IN ('ready', 'failed')),
            seconds REAL NOT NULL,
            stages TEXT NOT NULL,
            reason TEXT
        ) STRICT""",
        "CREATE INDEX starts_by_model ON starts (model, at)",
        """CREATE TABLE decisions (
            id INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            model TEXT NOT NULL,
            replica TEXT,
            from_rung TEXT NOT NULL,
            to_rung TEXT NOT NULL,
            reason TEXT NOT NULL,
            seconds REAL
        ) STRICT""",
        "CREATE INDEX decisions_by_time ON decisions (at)",
        "CREATE INDEX decisions_by_model ON decisions (model, at)",
        """CREATE TABLE overrides (
            model TEXT PRIMARY KEY,
            rung TEXT NOT NULL,
            until REAL,
            set_at REAL NOT NULL
        ) STRICT, WITHOUT ROWID""",
    ),
    (
        """CREATE TABLE sleeps (
            id INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            model TEXT NOT NULL,
            replica TEXT NOT NULL,
            outcome TEXT NOT NULL CHECK (outcome IN ('done', 'failed')),
            level INTEGER NOT NULL,
            seconds REAL NOT NULL,
            cycle INTEGER NOT NULL,
            rehearsal INTEGER NOT NULL,
            host_ram INTEGER,
            device_kept INTEGER,
            reason TEXT
        ) STRICT""",
        "CREATE INDEX sleeps_by_model ON sleeps (model, at)",
        """CREATE TABLE wakes (
            id INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            model TEXT NOT NULL,
            replica TEXT NOT NULL,
            outcome TEXT NOT NULL CHECK (outcome IN ('done', 'failed')),
            seconds REAL NOT NULL,
            engine REAL,
            first_answer REAL,
            canary REAL,
            cycle INTEGER NOT NULL,
            reason TEXT
        ) STRICT""",
        "CREATE INDEX wakes_by_model ON wakes (model, at)",
        """CREATE TABLE sleep_figures (
            key TEXT PRIMARY KEY,
            at REAL NOT NULL,
            model TEXT NOT NULL,
            first_sleep_s REAL NOT NULL,
            wake_s REAL NOT NULL,
            host_ram INTEGER,
            device_kept INTEGER
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE requests (
            model TEXT NOT NULL,
            minute INTEGER NOT NULL,
            requests INTEGER NOT NULL,
            failed INTEGER NOT NULL,
            met_hot INTEGER NOT NULL,
            met_asleep INTEGER NOT NULL,
            met_staged INTEGER NOT NULL,
            met_cold INTEGER NOT NULL,
            first_delays INTEGER NOT NULL,
            slow INTEGER NOT NULL,
            first_delay_sum REAL NOT NULL,
            first_delay_max REAL NOT NULL,
            first_bytes INTEGER NOT NULL,
            ttfb_sum REAL NOT NULL,
            ttfb_max REAL NOT NULL,
            PRIMARY KEY (model, minute)
        ) STRICT, WITHOUT ROWID""",
        # One step through the index for each model, where DISTINCT would read every minute.
        """CREATE VIEW models_asked (model) AS
            WITH RECURSIVE found (model) AS (
                SELECT min(model) FROM requests
                UNION ALL
                SELECT (SELECT min(model) FROM requests WHERE model > found.model)
                FROM found WHERE found.model IS NOT NULL
            )
            SELECT model FROM found WHERE model IS NOT NULL""",
    ),
    (
        """CREATE TABLE sizes (
            key TEXT NOT NULL,
            version TEXT NOT NULL,
            at REAL NOT NULL,
            model TEXT NOT NULL,
            weights INTEGER,
            kv_cache INTEGER,
            kv_tokens INTEGER,
            activation INTEGER,
            graphs INTEGER,
            other INTEGER,
            held INTEGER,
            PRIMARY KEY (key, version)
        ) STRICT, WITHOUT ROWID""",
    ),
    (
        "ALTER TABLE starts ADD COLUMN files TEXT",
        "ALTER TABLE overrides ADD COLUMN floor INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE requests ADD COLUMN vain INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE requests ADD COLUMN vain_max REAL NOT NULL DEFAULT 0",
    ),
    (
        # hour: Unix seconds / 3600; seconds: the model stood so; gpu_seconds: of all its engines.
        """CREATE TABLE occupancy (
            model TEXT NOT NULL,
            hour INTEGER NOT NULL,
            rung TEXT NOT NULL,
            cause TEXT NOT NULL,
            seconds REAL NOT NULL,
            replica_seconds REAL NOT NULL,
            gpu_seconds REAL NOT NULL,
            PRIMARY KEY (model, hour, rung, cause)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE first_delays (
            id INTEGER PRIMARY KEY,
            model TEXT NOT NULL,
            at REAL NOT NULL,
            met TEXT NOT NULL,
            seconds REAL NOT NULL,
            vain INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX first_delays_by_model ON first_delays (model, at)",
        "ALTER TABLE requests ADD COLUMN spared_asleep INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE requests ADD COLUMN spared_staged INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE requests ADD COLUMN spared_cold INTEGER NOT NULL DEFAULT 0",
    ),
    (
        "ALTER TABLE starts ADD COLUMN first_token REAL",
        "ALTER TABLE wakes ADD COLUMN first_token REAL",
        """CREATE TABLE synthetic (
            id INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            model TEXT NOT NULL,
            replica TEXT NOT NULL,
            kind TEXT NOT NULL CHECK (kind IN ('keepalive', 'warmup')),
            outcome TEXT NOT NULL CHECK (outcome IN ('answered', 'failed')),
            idle REAL NOT NULL,
            first_token REAL,
            seconds REAL NOT NULL,
            reason TEXT
        ) STRICT""",
        "CREATE INDEX synthetic_by_model ON synthetic (model, at)",
        """CREATE TABLE probes (
            id INTEGER PRIMARY KEY,
            at REAL NOT NULL,
            model TEXT NOT NULL,
            replica TEXT NOT NULL,
            key TEXT NOT NULL,
            source TEXT NOT NULL,
            idle REAL NOT NULL,
            met TEXT NOT NULL,
            came_up REAL NOT NULL,
            stages TEXT NOT NULL,
            first_token REAL NOT NULL,
            first_total REAL NOT NULL,
            next TEXT NOT NULL,
            restarts INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX probes_by_model ON probes (model, at)",
    ),
    ("ALTER TABLE overrides ADD COLUMN replicas INTEGER",),
    (
        # late: seconds, 0 where it was ready by then; no hindrance: nothing kept it from that.
        """CREATE TABLE openings (
            model TEXT NOT NULL,
            at REAL NOT NULL,
            until REAL,
            name TEXT NOT NULL,
            replicas INTEGER NOT NULL,
            late REAL,
            hindrance TEXT,
            reason TEXT,
            PRIMARY KEY (model, at)
        ) STRICT, WITHOUT ROWID""",
        # When the first of those seconds began; unknown where an earlier version began the row.
        "ALTER TABLE occupancy ADD COLUMN since REAL",
    ),
    (
        # mark: which calendar has been in force since then (Unix seconds).
        """CREATE TABLE calendars (
            model TEXT PRIMARY KEY,
            mark TEXT NOT NULL,
            since REAL NOT NULL
        ) STRICT, WITHOUT ROWID""",
    ),
)
"""One tuple of statements for each version; user_version counts those that were applied."""

PRUNING = (
    "DELETE FROM decisions WHERE at < :oldest",
    "DELETE FROM sleeps WHERE at < :oldest",
    "DELETE FROM first_delays WHERE at < :oldest",
    "DELETE FROM occupancy WHERE hour < :oldest / 3600",
    "DELETE FROM synthetic WHERE at < :oldest",
    "DELETE FROM probes WHERE at < :oldest",
    "DELETE FROM openings WHERE at < :oldest",
    """DELETE FROM requests
        WHERE model IN (SELECT model FROM models_asked) AND minute < :oldest / 60""",
    """DELETE FROM starts WHERE at < :oldest AND id NOT IN (
        SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY model ORDER BY id DESC) AS place
            FROM starts WHERE outcome = 'ready'
        ) WHERE place <= :known)""",
    """DELETE FROM wakes WHERE at < :oldest AND id NOT IN (
        SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY model ORDER BY id DESC) AS place
            FROM wakes WHERE outcome = 'done'
        ) WHERE place <= :known)""",
)
"""Run with `oldest`, Unix seconds, and `known`, so many starts and wakes of each model to leave.

All else ages but overrides, calendars, sleep figures and sizes.
"""
