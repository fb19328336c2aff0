#include "services/pool_manager/task.h"

#include <catch2/catch.hpp>

#include <string>

namespace cowslip {

namespace {

Task<int> refused() {
    throw StoreRefusal("store: UNIQUE constraint failed");
    co_return 1;
}

Task<std::string> ask() {
    Result<int> number = co_await refused();
    if (!number) co_return number.error();
    co_return "never";
}

Async<void> run(Result<std::string>* answer) {
    *answer = co_await ask();
}

Async<void> refused_without_answer() {
    throw StoreRefusal("store: UNIQUE constraint failed");
    co_return;
}

Task<int> failed() {
    throw StoreFailure(StoreFailure::Kind::broken, "store: disk I/O error");
    co_return 1;
}

Async<void> run_failed() {
    static_cast<void>(co_await failed());
}

}  // namespace

TEST_CASE("what the store refuses is the error of the task that asked", "[task]") {
    Result<std::string> answer = "none";
    const Async<void> task = run(&answer);
    task.handle().resume();
    CHECK(task.done());
    REQUIRE_FALSE(answer);
    CHECK(answer.error().code == Errc::internal);
    CHECK(answer.error().message == "store: UNIQUE constraint failed");
}

TEST_CASE("a failure of the store, and a refusal that nobody can be told of, leave through who resumes", "[task]") {
    const Async<void> failure = run_failed();
    CHECK_THROWS_AS(failure.handle().resume(), StoreFailure);
    const Async<void> refusal = refused_without_answer();
    CHECK_THROWS_AS(refusal.handle().resume(), StoreRefusal);
}

}  // namespace cowslip
