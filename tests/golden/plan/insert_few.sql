--- Fewer rows than a LOAD is worth.
-- table p: id int key, v int
-- insert p (1, 10), (2, 20)

INSERT INTO `p` (`id`,`v`) VALUES (1,10),(2,20);
