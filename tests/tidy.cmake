# clang-tidy over the sources that the programs consist of (.clang-tidy has the checks), as a test. It is a target of the
# build, so that it runs in parallel, and a second time only for what has changed: a group of sources, compiled as one, is
# looked at again when its object file is newer.
if(NOT CMAKE_UNITY_BUILD)
  return()
endif()
set(checked)
foreach(
  target
  cowslip_common cowslip_pool_manager cowslip_device_actor cowslip_mount_actor cowslip_ctl cowslip-pool-manager
  cowslip-device-actor cowslip-mount-actor cowslip)
  get_target_property(sources ${target} SOURCES)
  list(LENGTH sources count)
  math(EXPR last "(${count} - 1) / ${CMAKE_UNITY_BUILD_BATCH_SIZE}")
  foreach(group RANGE ${last})
    set(source ${CMAKE_BINARY_DIR}/CMakeFiles/${target}.dir/Unity/unity_${group}_cxx.cxx)
    set(done ${CMAKE_BINARY_DIR}/tidy/${target}_${group})
    add_custom_command(
      OUTPUT ${done}
      COMMAND clang-tidy-14 -p ${CMAKE_BINARY_DIR} --quiet --extra-arg=-Wno-unknown-warning-option ${source} 2>&1
      COMMAND ${CMAKE_COMMAND} -E touch ${done}
      DEPENDS ${source}.o ${CMAKE_SOURCE_DIR}/.clang-tidy
      COMMENT "clang-tidy ${target} ${group}"
      VERBATIM)
    list(APPEND checked ${done})
  endforeach()
endforeach()
add_custom_target(tidy DEPENDS ${checked})

cmake_host_system_information(RESULT processors QUERY NUMBER_OF_LOGICAL_CORES)
cowslip_script_test(tidy 900 ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target tidy -- --quiet -k 0)
set_tests_properties(tidy PROPERTIES PROCESSORS ${processors})
