--- A parent comes before its children, and goes after them.
-- table p: id int key, v int
-- table c: id int key, p int null -> p.id
-- settings: checks
-- insert p (1, 0)
-- insert c (2, 1)
-- delete c (1, 5)
-- delete p (5, 0)

INSERT INTO `p` (`id`,`v`) VALUES (1,0);
DELETE /*+ INDEX(`c` `PRIMARY`) */ FROM `c` WHERE `id` IN (1);
INSERT INTO `c` (`id`,`p`) VALUES (2,1);
DELETE /*+ INDEX(`p` `PRIMARY`) */ FROM `p` WHERE `id` IN (5);
