CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- What a benchmark holds, so that a finished experiment need not load it again.
CREATE TABLE datasets (fingerprint TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE cells (
    key TEXT PRIMARY KEY,
    fields TEXT NOT NULL,               -- canonical JSON whose hash is the key
    label TEXT NOT NULL,
    status TEXT NOT NULL,               -- started, done, failed
    reason TEXT NOT NULL DEFAULT '',
    weights TEXT NOT NULL DEFAULT '',   -- digest of the weights after transform
    report TEXT NOT NULL DEFAULT '{}',  -- what the stack's members told of themselves
    provenance TEXT NOT NULL DEFAULT '{}',
    seconds REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE leases (
    key TEXT PRIMARY KEY,
    boot TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started INTEGER NOT NULL,
    heartbeat REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE batches (
    key TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (key, number)
) WITHOUT ROWID;

CREATE TABLE predictions (
    key TEXT NOT NULL,
    instance TEXT NOT NULL,
    batch INTEGER NOT NULL,
    input_hash TEXT NOT NULL,
    text TEXT NOT NULL,
    finish TEXT NOT NULL,
    error TEXT NOT NULL,
    margin REAL,
    prefill_ms REAL,
    decode_ms REAL NOT NULL,
    depths BLOB NOT NULL,               -- how deep each visual token went, compressed, empty if none was dropped
    detail TEXT NOT NULL,               -- token ids, log-probs, first tokens, options, visual tokens, strength
    PRIMARY KEY (key, instance)
) WITHOUT ROWID;

-- What metrics had recorded besides: a recorder's numbers in the order of its names, as float64.
CREATE TABLE extras (
    key TEXT NOT NULL,
    instance TEXT NOT NULL,
    recorder TEXT NOT NULL,             -- hash of what is recorded, and by which plugin
    numbers BLOB NOT NULL,
    PRIMARY KEY (key, instance, recorder)
) WITHOUT ROWID;

CREATE TABLE scores (
    key TEXT NOT NULL,
    instance TEXT NOT NULL,
    scorer TEXT NOT NULL,               -- version of extraction, scoring and references
    answer TEXT,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    value REAL NOT NULL,
    correct INTEGER NOT NULL,
    PRIMARY KEY (key, instance, scorer)
) WITHOUT ROWID;

CREATE TABLE artefacts (recipe TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID;

-- What a judge replied, under a hash of the judge, the question and how often it was asked before.
CREATE TABLE verdicts (key TEXT PRIMARY KEY, question TEXT NOT NULL, reply TEXT NOT NULL) WITHOUT ROWID;
