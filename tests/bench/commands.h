// The benchmarks' programs, each a command of cowslip-bench: one program, since to compile their libraries takes longer
// than all else here. Its arguments begin with its name; it gives its exit status.
#pragma once

namespace cowslip::bench {

namespace bare {
int command(int argc, char** argv);
}
namespace cycle {
int command(int argc, char** argv);
}
namespace warm {
int command(int argc, char** argv);
}
namespace requests {
int command(int argc, char** argv);
}
namespace echo {
int command(int argc, char** argv);
}
namespace actors {
int command(int argc, char** argv);
}
namespace subscribers {
int command(int argc, char** argv);
}

}  // namespace cowslip::bench
