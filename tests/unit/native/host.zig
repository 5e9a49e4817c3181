//! A stand-in for the Envoy that the module runs in: one stream, whose parts tests put in and look at.
const std = @import("std");

const memory = std.heap.c_allocator;
const Text = std.ArrayList(u8);

const Bytes = extern struct {
    ptr: ?[*]const u8 = null,
    length: usize = 0,

    fn slice(self: Bytes) []const u8 {
        return if (self.ptr) |ptr| ptr[0..self.length] else "";
    }
};

/// Headers of requests and of answers (0 and 2), metadata of the stream and of its route (4 and 5).
var tables: [6]std.StringArrayHashMapUnmanaged([]const u8) = @splat(.empty);
/// What has arrived of a request, what is held of it, and the same of an answer; in pieces.
var bodies: [4]std.ArrayList([]const u8) = @splat(.empty);
var received_is_buffered = false;
var route_known = false;

fn copied(text: []const u8) []const u8 {
    return memory.dupe(u8, text) catch unreachable;
}

export fn host_clear() void {
    for (&tables) |*table| table.clearRetainingCapacity();
    for (0..bodies.len) |body| host_drop(body);
    received_is_buffered = false;
    route_known = true;
}

export fn host_put(table: usize, key: [*:0]const u8, value: Bytes) void {
    tables[table].put(memory, copied(std.mem.span(key)), copied(value.slice())) catch unreachable;
}

export fn host_get(table: usize, key: [*:0]const u8, value: *Bytes) bool {
    const found = tables[table].get(std.mem.span(key)) orelse return false;
    value.* = .{ .ptr = found.ptr, .length = found.len };
    return true;
}

export fn host_give(body: usize, chunk: Bytes) void {
    bodies[body].append(memory, copied(chunk.slice())) catch unreachable;
}

export fn host_pieces(body: usize) usize {
    return bodies[body].items.len;
}

export fn host_piece(body: usize, index: usize, value: *Bytes) void {
    const piece = bodies[body].items[index];
    value.* = .{ .ptr = piece.ptr, .length = piece.len };
}

export fn host_drop(body: usize) void {
    for (bodies[body].items) |piece| memory.free(piece);
    bodies[body].clearRetainingCapacity();
}

/// What an earlier filter held arrives at once.
export fn host_received_is_buffered() void {
    received_is_buffered = true;
}

/// What the module calls, under the names by which Envoy exports it.
const callbacks = struct {
    fn http_get_header(_: *anyopaque, which: usize, key: Bytes, value: *Bytes, _: usize, _: ?*usize) callconv(.c) bool {
        const found = tables[which].get(key.slice()) orelse return false;
        value.* = .{ .ptr = found.ptr, .length = found.len };
        return true;
    }

    fn http_set_header(_: *anyopaque, which: usize, key: Bytes, value: Bytes) callconv(.c) bool {
        if (value.ptr == null) return tables[which].orderedRemove(key.slice());
        tables[which].put(memory, copied(key.slice()), copied(value.slice())) catch unreachable;
        return true;
    }

    fn http_get_body_chunks_size(_: *anyopaque, body: usize) callconv(.c) usize {
        return bodies[body].items.len;
    }

    fn http_get_body_chunks(_: *anyopaque, body: usize, chunks: [*]Bytes) callconv(.c) bool {
        for (bodies[body].items, 0..) |piece, index| chunks[index] = .{ .ptr = piece.ptr, .length = piece.len };
        return true;
    }

    fn http_append_body(_: *anyopaque, body: usize, chunk: Bytes) callconv(.c) bool {
        host_give(body, chunk);
        return true;
    }

    fn http_drain_body(_: *anyopaque, body: usize, count: usize) callconv(.c) bool {
        var whole: Text = .empty;
        defer whole.deinit(memory);
        for (bodies[body].items) |piece| whole.appendSlice(memory, piece) catch unreachable;
        // A lent piece that is looked at after this is gone.
        for (bodies[body].items) |piece| {
            @memset(@constCast(piece), '#');
            memory.free(piece);
        }
        bodies[body].clearRetainingCapacity();
        if (count < whole.items.len) bodies[body].append(memory, copied(whole.items[count..])) catch unreachable;
        return true;
    }

    fn http_get_body_size(_: *anyopaque, body: usize) callconv(.c) usize {
        var size: usize = 0;
        for (bodies[body].items) |piece| size += piece.len;
        return size;
    }

    fn http_set_buffer_limit(_: *anyopaque, bytes: u64) callconv(.c) void {
        const text = std.fmt.allocPrint(memory, "{d}", .{bytes}) catch unreachable;
        tables[4].put(memory, "host/limit", text) catch unreachable;
    }

    fn http_filter_reset_stream(_: *anyopaque, _: c_int, why: Bytes) callconv(.c) void {
        tables[4].put(memory, "host/ended", copied(why.slice())) catch unreachable;
    }

    fn http_received_buffered_request_body(_: *anyopaque) callconv(.c) bool {
        return received_is_buffered;
    }

    fn http_get_metadata_string(_: *anyopaque, source: usize, space: Bytes, key: Bytes, value: *Bytes) callconv(.c) bool {
        if (source == 1 and !route_known) return false;
        var name: [200]u8 = undefined;
        const full = std.fmt.bufPrint(&name, "{s}/{s}", .{ space.slice(), key.slice() }) catch unreachable;
        const found = tables[4 + source].get(full) orelse return false;
        value.* = .{ .ptr = found.ptr, .length = found.len };
        return true;
    }

    fn http_set_dynamic_metadata_string(_: *anyopaque, space: Bytes, key: Bytes, value: Bytes) callconv(.c) void {
        const full = std.fmt.allocPrint(memory, "{s}/{s}", .{ space.slice(), key.slice() }) catch unreachable;
        tables[4].put(memory, full, copied(value.slice())) catch unreachable;
    }

    fn http_set_dynamic_metadata_number(_: *anyopaque, space: Bytes, key: Bytes, value: f64) callconv(.c) void {
        const full = std.fmt.allocPrint(memory, "{s}/{s}", .{ space.slice(), key.slice() }) catch unreachable;
        tables[4].put(memory, full, std.fmt.allocPrint(memory, "{d}", .{value}) catch unreachable) catch unreachable;
    }

    fn http_clear_route_cache(_: *anyopaque) callconv(.c) void {
        route_known = false;
    }

    fn get_most_specific_route_config(_: *anyopaque) callconv(.c) ?*anyopaque {
        route_known = true;
        return null;
    }
};

comptime {
    const names = .{
        "http_get_header",                     "http_set_header",          "http_get_body_chunks_size",
        "http_get_body_chunks",                "http_append_body",         "http_drain_body",
        "http_received_buffered_request_body", "http_get_metadata_string", "http_set_dynamic_metadata_string",
        "http_set_dynamic_metadata_number",    "http_clear_route_cache",   "get_most_specific_route_config",
        "http_get_body_size",                  "http_set_buffer_limit",    "http_filter_reset_stream",
    };
    for (names) |name| @export(&@field(callbacks, name), .{ .name = "envoy_dynamic_module_callback_" ++ name });
}
