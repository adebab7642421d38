# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Actions that mark packets and connections: the kernel's xt_MARK and xt_CONNMARK.  Knows no syntax.

A dry context's packet and connection are marked, too: they are the asker's copies.
"""

cdef enum Command:
    CONNMARK_SET, CONNMARK_SAVE, CONNMARK_RESTORE

COMMANDS = {"--set-xmark": CONNMARK_SET, "--save-mark": CONNMARK_SAVE, "--restore-mark": CONNMARK_RESTORE}


cdef class MarkAction(PacketAction):
    """Clears the mark's bits under `mask`, then XORs `value` in."""

    def __init__(self, uint32_t value, uint32_t mask):
        self.value, self.mask = value, mask

    cdef void act(self, Context *context, Outcome *outcome) noexcept nogil:
        context.packet.mark = context.packet.mark & ~self.mask ^ self.value


cdef class ConnMarkAction(PacketAction):
    """`command`: a key of COMMANDS.  Setting: as MarkAction.  Saving and restoring: `value` is not used, `mask` is the bits of
    the connection's mark, `other_mask` the packet's."""

    def __init__(self, str command, uint32_t value, uint32_t mask, uint32_t other_mask=0xFFFFFFFF):
        self.command, self.value, self.mask, self.other_mask = COMMANDS[command], value, mask, other_mask

    cdef void act(self, Context *context, Outcome *outcome) noexcept nogil:
        if context.conn == NULL:
            return
        if self.command == CONNMARK_RESTORE:
            context.packet.mark = context.packet.mark & ~self.other_mask ^ context.conn.mark & self.mask
        elif self.command == CONNMARK_SET:
            context.conn.mark = context.conn.mark & ~self.mask ^ self.value
        else:
            context.conn.mark = context.conn.mark & ~self.mask ^ context.packet.mark & self.other_mask
