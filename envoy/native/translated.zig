//! The filter behind the one that has attempts translated. The service that translates writes what is to become of path,
//! status and headers in front of the body, since Envoy takes no headers with it: each line is `name:value`, an empty line
//! ends them. A body without that is not translated, and goes nowhere. The service is told of an answer in the same way.
const std = @import("std");
const abi = @import("abi.zig");

const memory = std.heap.c_allocator;

/// No JSON and no event begins so.
const begin = 0x1e;
pub const not_translated = "headgate_not_translated";
/// On the request, once the provider has sent all of its answer.
const done_header = "x-headgate-done";
/// What the service has to know of an answer.
const told_headers = [_][]const u8{ ":status", "content-type", "content-encoding", "retry-after" };

pub const Config = struct {
    /// Null for any text: there is nothing to be told.
    pub fn read(text: []const u8) ?Config {
        return if (text.len == 0) .{} else null;
    }
};

pub const Filter = struct {
    stream: abi.Stream,
    config: *const Config,
    told: bool = false,

    pub fn onRequest(self: *Filter, parts: []const abi.Body) !c_int {
        const length = try take(self.stream, .request, parts) orelse {
            abi.endStream(self.stream, not_translated);
            return abi.hold_body;
        };
        try abi.setCount(self.stream, "content-length", length);
        return abi.proceed;
    }

    /// Puts in front of an answer what the service has to know of its headers.
    pub fn onAnswerBody(self: *Filter, ends: bool) !void {
        if (ends) abi.setHeader(self.stream, .request, done_header, "1");
        if (self.told) return;
        self.told = true;
        var text: std.ArrayList(u8) = .empty;
        defer text.deinit(memory);
        try text.append(memory, begin);
        for (told_headers) |name| {
            const value = abi.header(self.stream, .response, name);
            if (value.len > 0) try text.print(memory, "{s}:{s}\n", .{ name, value });
        }
        try text.append(memory, '\n');
        var copy: std.ArrayList(u8) = .empty;
        defer copy.deinit(memory);
        const arrived: []const abi.Body = &.{.received_response};
        try text.appendSlice(memory, try abi.body(self.stream, arrived, memory, &copy));
        abi.replaceBody(self.stream, arrived, text.items);
    }
};

/// Whether the provider has sent all of its answer.
pub fn isDone(stream: abi.Stream) bool {
    return abi.header(stream, .request, done_header).len > 0;
}

/// Before an attempt: an earlier one may have been done.
pub fn reopen(stream: abi.Stream) void {
    abi.removeHeader(stream, .request, done_header);
}

/// Sets the headers that stand in front of a body, and takes them away from it. How long the rest is; null: there are none.
pub fn take(stream: abi.Stream, which: abi.Headers, parts: []const abi.Body) !?usize {
    var copy: std.ArrayList(u8) = .empty;
    defer copy.deinit(memory);
    const body = try abi.body(stream, parts, memory, &copy);
    const end = std.mem.indexOf(u8, body, "\n\n") orelse return null;
    if (body[0] != begin) return null;
    const head = try memory.dupe(u8, body[1..end]);
    defer memory.free(head);
    const length = body.len - end - 2;
    if (parts.len == 1) {
        abi.dropFirst(stream, parts[0], end + 2);
    } else {
        const rest = try memory.dupe(u8, body[end + 2 ..]);
        defer memory.free(rest);
        abi.replaceBody(stream, parts, rest);
    }
    var lines = std.mem.splitScalar(u8, head, '\n');
    while (lines.next()) |line| {
        // The names of some begin with a colon.
        const colon = std.mem.indexOfScalarPos(u8, line, 1, ':') orelse continue;
        const value = line[colon + 1 ..];
        if (value.len == 0) abi.removeHeader(stream, which, line[0..colon]) else abi.setHeader(stream, which, line[0..colon], value);
    }
    return length;
}
