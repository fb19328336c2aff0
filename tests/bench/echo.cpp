// cowslip-bench echo: what the bus costs without any service: a ROUTER that sends each request back. With --store it
// first inserts a row for each, all that have arrived in one transaction. The references of deploy/bench native.
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <zmq.hpp>

#include "common/sqlite.h"
#include "tests/bench/commands.h"

namespace cowslip::bench::echo {

struct Message {
    zmq::message_t peer;
    zmq::message_t payload;
};

bool receive(zmq::socket_t& socket, Message& message, zmq::recv_flags flags) {
    return socket.recv(message.peer, flags) && socket.recv(message.payload, zmq::recv_flags::none);
}

Result<void> serve(const std::string& path, const std::string& store) {
    std::optional<Database> database;
    if (!store.empty()) {
        database.emplace(TRY(Database::open(store)));
        TRY(database->execute("CREATE TABLE request (number INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT"));
    }
    zmq::context_t context(1);
    zmq::socket_t socket(context, zmq::socket_type::router);
    socket.set(zmq::sockopt::linger, 0);
    socket.bind("ipc://" + path);
    for (;;) {
        std::vector<Message> messages(1);
        receive(socket, messages.back(), zmq::recv_flags::none);
        for (Message next; receive(socket, next, zmq::recv_flags::dontwait);) messages.push_back(std::move(next));
        if (database) {
            for (const Message& message : messages)
                database->query("INSERT INTO request (body) VALUES (?)")
                    .bind_blob(message.payload.to_string_view())
                    .run();
            database->commit();
        }
        for (Message& message : messages) {
            socket.send(message.peer, zmq::send_flags::sndmore);
            socket.send(message.payload, zmq::send_flags::none);
        }
    }
}

int command(int argc, char** argv) {
    std::string socket;
    std::string store;
    CLI::App app("An echo over ZeroMQ");
    app.add_option("--socket", socket, "where to listen")->required();
    app.add_option("--store", store, "a SQLite file to make");
    CLI11_PARSE(app, argc, argv);
    try {
        const auto served = serve(socket, store);
        if (!served) std::cerr << "cowslip-bench echo: " << served.error().message << '\n';
    } catch (const std::exception& error) {
        std::cerr << "cowslip-bench echo: " << error.what() << '\n';
    }
    return 1;  // It ends by a signal.
}

}  // namespace cowslip::bench::echo
