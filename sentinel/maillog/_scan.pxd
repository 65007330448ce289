cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from sentinel.maillog._symbols cimport Symbols

# The numbering of fields.py.
cdef enum:
    HOST, SYSLOG_NAME, QUEUE_ID, CLIENT_NAME, CLIENT_IP, SASL_METHOD, SASL_USERNAME, SENDER, RECIPIENT, ORIG_TO, RELAY_HOST, RELAY_IP
    DSN, STATUS, REPLY, MESSAGE_ID, LINKED_QUEUE_ID, ACTION, STAGE, HELO, PEER_HOST, PEER_IP
    N_TEXT

cdef enum:
    PID, CLIENT_PORT, RELAY_PORT, REPLY_CODE, NRCPT, SIZE, UID
    N_NUMBER

cdef enum:
    UNPARSED, OTHER, CONNECT, DISCONNECT, ACCEPTED, PICKED_UP, MESSAGE_ID_LINE, QUEUED_LINE, DELIVERY, REMOVED, REJECTED, AUTH_FAILED
    CONNECT_FAILED, BOUNCE_NOTICE, WARNING, AUTH_SUCCESS
    N_KINDS

cdef enum:
    S_UNKNOWN, S_SMTPD, S_CLEANUP, S_QMGR, S_SMTP, S_LMTP, S_LOCAL, S_VIRTUAL, S_PIPE, S_ERROR, S_DISCARD, S_BOUNCE, S_PICKUP, S_POSTSCREEN
    S_POSTSUPER
    S_SENDMAIL = 30

# Where a message came from (track/), kept on the row.
cdef enum:
    ORIGIN_UNKNOWN, ORIGIN_LOGIN, ORIGIN_CLIENT, ORIGIN_LOCAL, ORIGIN_INTERNAL

cdef struct Span:
    uint16_t start    # from the beginning of the line; 0 is absent, since every line begins with its header
    uint16_t length

cdef struct Row:
    int64_t time      # microseconds since the epoch
    double delay      # seconds, negative is absent
    int64_t number[7]
    uint32_t line     # offset of the line in the chunk
    uint16_t length
    uint8_t kind
    uint8_t service
    Span text[22]
    # What the join adds.
    int32_t host
    int32_t account   # of the message, as logged; a row's own text goes before
    int32_t ip
    int32_t sender
    int32_t recipients  # of a message seen for the first time, else 0
    uint8_t origin
    uint8_t again         # a retry, or a message that came back from a filter: it was counted before
    uint8_t hop           # handed to a content filter or forwarded: not yet delivered
    uint8_t forwarded     # the message came from another by an alias or .forward
    uint8_t attributed    # belongs to a message of the join
    uint8_t inside        # the message's client_ip lies in our own networks
    uint8_t unknown       # a line of kind other that no form took
    uint8_t said          # status of a delivery whose line has no word for it, in STATUSES; see status_word()
    uint32_t repeat       # how often it happened: syslog folds lines that are the same
    uint8_t known         # its account has logged in from its address before

cdef inline const char *status_word(int said) noexcept:
    return b"sent" if said == 1 else b"deferred" if said == 2 else b"bounced"

cdef inline Py_ssize_t status_length(int said) noexcept:
    return 4 if said == 1 else 8 if said == 2 else 7

# Where a span's start says that its text is no part of the line but the one word that the scan adds itself.
cdef enum:
    SERVER_FAULT_START = 65535
    SERVER_FAULT_LENGTH = 12

cdef inline const char *text_of(const Row *row, const char *line, int field) noexcept nogil:
    """A text that is present."""
    cdef const char *text = b"server-fault"
    if row.text[field].start != SERVER_FAULT_START:
        text = line + row.text[field].start
    return text

@cython.final
cdef class EventBatch:
    cdef readonly object chunk
    cdef bytes data
    cdef const char *base
    cdef Row *rows
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t lines
    cdef Py_ssize_t room
    cdef list places        # None, or where the buffer's parts come from: (start in the buffer, offset in the source, byte for byte)
    cdef Symbols symbols
    cdef int generation
    cdef Row *append(self) except NULL
    cdef int add(self, Row *header, int kind, int service, int said, double delay, spans, numbers) except -1
    cdef bytes raw(self, Row *row, int field)
    cdef Row *at(self, Py_ssize_t i) except NULL
    cdef int64_t place(self, Row *row) except -2
    cdef bytes own_or_origin(self, Row *row, int field)
    cdef str service_name(self, Row *row)
